"""What a chat request asks of a simulated model: the question, the original solution, or a seed to vary.

Only the last user message counts: worked examples stand in the turns before it. Tolerant of other instructions around
the labels.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

_QUESTION = re.compile(r"(?:^|\n)[#* ]{0,4}Question[*]{0,2}:[ \t]*", re.IGNORECASE)
_ORIGINAL = re.compile(r"\n[#* ]{0,4}Original Solution[*]{0,2}:?", re.IGNORECASE)
_END_OF_QUESTION = re.compile(
    r"\n[#* ]{0,4}(?:Candidate Answers|Answer Choices|Answer|Original Solution)[*]{0,2}:", re.IGNORECASE
)
_CUE = re.compile(r"\n[#* ]{0,4}Incorrect Step[*]{0,2}:\s*$", re.IGNORECASE)
_GIVEN = re.compile(r"#\s*Given Question\s*#?:", re.IGNORECASE)
_CREATED = re.compile(r"#\s*Created Question\s*#?:", re.IGNORECASE)
_CHOICES = re.compile(r"\s*\[[^\[\]]*;[^\[\]]*\]\s*$")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for: a path to a question, the correction of a path, or a new question like a given one."""

    kind: Literal["path", "correction", "evolution"]
    question: str
    original: str = ""
    steps: bool = True
    """Whether a correction is asked for with a step number (the prompt ends in its cue)."""


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the last user message, or the empty string."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
            return content if isinstance(content, str) else ""
    return ""


def read_request(text: str) -> Asked:
    """Return what the text of a prompt asks for."""
    if given := list(_GIVEN.finditer(text)):
        seed = _CREATED.split(text[given[-1].end() :])[0]
        return Asked("evolution", _CHOICES.sub("", seed).strip())
    if original := list(_ORIGINAL.finditer(text)):
        head, tail = text[: original[-1].start()], text[original[-1].end() :]
        body = _CUE.sub("", tail)
        solution = body.strip().removeprefix("{")
        solution = solution[:-1].strip() if solution.endswith("}") else solution.strip()
        return Asked("correction", _question(head), solution, steps=body != tail)
    return Asked("path", _question(text))


def _question(text: str) -> str:
    marks = list(_QUESTION.finditer(text))
    start = marks[-1].end() if marks else 0
    end = _END_OF_QUESTION.search(text, start)
    return text[start : end.start() if end else len(text)].strip()

"""The text form of a correction: write it, and read what teachers make of it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lema_core.steps import number_steps, split_path, step_label

_HEADING = re.compile(
    r"(?:^|(?<=[.\n}]))[ \t#>*_]{0,12}"
    r"(?P<name>incorrect step|explanation|correct(?:ed)? solution|corrected steps|mistakes?|correct(?:ed)? answer)"
    r"[ \t*_]{0,6}(?::[ \t*_]{0,6}|(?=\n))",
    re.IGNORECASE | re.MULTILINE,
)
Shape = Literal["steps", "choice", "whole"]
"""``steps``: the wrong step, why, and the steps from there on. ``choice``: the mistakes and the corrected answer.
``whole``: the same, with the answer kept as it is, line by line: a program."""

_PART = {
    "incorrect step": "step",
    "explanation": "explanation",
    "correct solution": "solution",
    "corrected solution": "solution",
    "corrected steps": "solution",
    "mistake": "mistakes",
    "mistakes": "mistakes",
    "corrected answer": "answer",
    "correct answer": "answer",
}
_WANTED: dict[Shape, frozenset[str]] = {
    "steps": frozenset({"step", "explanation", "solution"}),
    "choice": frozenset({"mistakes", "explanation", "answer", "solution"}),
    "whole": frozenset({"mistakes", "explanation", "answer", "solution"}),
}
_STEP_NUMBER = re.compile(r"\bstep\s{0,3}#?(\d{1,6})\b|^[\s*_]{0,6}(\d{1,6})\b", re.IGNORECASE)
_ELLIPSIS = re.compile(r"^[\s*_(\[]{0,6}(?:\.{2,}|…)[\s*_)\]]{0,6}$")
_LEADING_ELLIPSIS = re.compile(r"^[\s*_(\[]{0,6}(?:\.{2,}|…)[\s*_)\]]{0,6}")
_BRACE_LINE = re.compile(r"^[\s`*]{0,6}(?:[{}]|\*\*|```\w{0,12})[\s`*]{0,6}$")
_OPENING = re.compile(r"^[ \t`*]{0,6}\{(?=[ \t`*]{0,6}$)|\A\s{0,12}\{", re.MULTILINE)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ParsedCorrection:
    """The parts of a teacher's answer. In the choice shape ``step`` is 0 and ``steps`` holds the corrected answer."""

    step: int
    explanation: str
    steps: tuple[str, ...]
    answer_line: str | None
    first_label: int | None
    """The number on the first step of the corrected solution, None where its steps carry none."""
    elided: bool
    """Whether a ``...`` line stands for the unchanged steps."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an answer is not an accepted correction: a code of ``REASONS`` and what was seen."""

    reason: str
    detail: str = ""


Parse = Callable[[str, Shape], ParsedCorrection | Fault]
"""Reads a teacher's answer."""


def render_correction(step: int, explanation: str, steps: Sequence[str], answer_line: str | None) -> str:
    """Return a correction in the text form of teachers and of fine-tuning examples (paper, section 2.1)."""
    elision = ["..."] if step > 1 else []
    lines = [*elision, number_steps(steps, step), *([answer_line] if answer_line else [])]
    body = "\n".join(line for line in lines if line)
    return f"Step {step}.\nExplanation: {explanation}\nCorrect Solution:\n{{\n{body}\n}}"


def render_choice_correction(mistakes: str, corrected_answer: str) -> str:
    """Return a correction in the shape without steps (the paper's CommonsenseQA)."""
    return f"Mistakes: {mistakes}\nCorrected Answer: {corrected_answer}"


def parse_correction(text: str, shape: Shape = "steps") -> ParsedCorrection | Fault:
    """Read a teacher's answer. What cannot be read comes back as a fault, never as an exception."""
    wanted = _WANTED[shape]
    parts: dict[str, str] = {}
    name, start = "step", 0
    for heading in _HEADING.finditer(text):
        found = _PART[heading["name"].lower()]
        if found not in wanted or found in parts or (found == name and text[start : heading.start()].strip()):
            continue  # a later "explanation:" is the teacher's prose
        parts[name] = text[start : heading.start()]
        name, start = found, heading.end()
    parts[name] = text[start:]
    return _parse_steps(parts) if shape == "steps" else _parse_choice(parts, shape)


def _parse_choice(parts: dict[str, str], shape: Shape) -> ParsedCorrection | Fault:
    mistakes = parts.get("mistakes", parts.get("explanation"))
    answer = parts.get("answer", parts.get("solution"))
    if mistakes is None or answer is None:
        return Fault("unparsable", f"expected the parts Mistakes and Corrected Answer, found {_found(parts)}")
    if shape == "whole":
        body = answer.strip("\r\n").rstrip()
    else:
        body = "\n".join(line for line in answer.splitlines() if line.strip() and not _BRACE_LINE.match(line)).strip()
    return ParsedCorrection(0, _tidy(mistakes), (body,) if body else (), None, None, elided=False)


def _parse_steps(parts: dict[str, str]) -> ParsedCorrection | Fault:
    if "explanation" not in parts or "solution" not in parts:
        return Fault("unparsable", f"expected the parts Explanation and Correct Solution, found {_found(parts)}")
    named = _STEP_NUMBER.search(parts.get("step", ""))
    if named is None:
        return Fault("step_missing", f"expected a step's number, found {parts.get('step', '').strip()[:80]!r}")
    # What stands between the solution's own braces, without fences and the ``...`` line
    text = parts["solution"]
    opening = _OPENING.search(text)
    if opening is not None:
        text = text[: opening.start()] + text[opening.end() :]
    body, rest, depth = text, "", 0
    for brace in _BRACE.finditer(text, opening.start() if opening else 0):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth < 0:  # the solution's own brace; those of a formula come in pairs
            body, rest = text[: brace.start()], text[brace.end() :]
            break
    lines = [line for line in body.splitlines() if line.strip() and not _BRACE_LINE.match(line)]
    unlabelled = _LEADING_ELLIPSIS.sub("", lines[0]) if lines else ""
    elided = bool(lines) and unlabelled != lines[0]
    lines = [unlabelled, *lines[1:]] if elided else lines
    kept = [line for line in lines if line and not _ELLIPSIS.match(line)]
    elided = elided or len(kept) < len(lines)
    # For want of an answer line within the braces, a teacher may write it right behind them
    behind = next((line for line in rest.splitlines() if line.strip() and not _BRACE_LINE.match(line)), "")
    within, found = split_path("\n".join(kept)), split_path("\n".join([*kept, behind]))
    adds_answer = within.answer_line is None and found.answer_line is not None and found.steps == within.steps
    lines = [*kept, behind] if adds_answer else kept
    labels = [label[0] for label in map(step_label, lines) if label]
    split = split_path("\n".join(lines))
    if not split.steps:
        return Fault("unparsable", "the correct solution has no steps")
    first = labels[0] if labels else None
    step = int(named[1] or named[2])
    return ParsedCorrection(step, _tidy(parts["explanation"]), split.steps, split.answer_line, first, elided)


def _tidy(text: str) -> str:
    return " ".join(text.replace("**", "").split())


def _found(parts: dict[str, str]) -> str:
    return ", ".join(name for name, text in parts.items() if text.strip()) or "nothing"

"""Thinking text: what a model writes before its answer, separated from it by the marks that models put around it.

Servers send it in a field of its own (``reasoning``, ``reasoning_content``), in parts of the content, or between marks
in the text. A text that ends inside its thinking has no answer: a number in there was a guess on the way.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

PAIRS: Mapping[str, str] = {
    "<think>": "</think>",  # Qwen3, DeepSeek R1, GLM 4.5, Nemotron, MiniMax M2, Phi-4 reasoning, SmolLM3
    "<|channel>thought": "<channel|>",  # Gemma 4
    "[THINK]": "[/THINK]",  # Magistral
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A Reasoning
    "<|begin_of_thought|>": "<|end_of_thought|>",  # Sky-T1, OpenThinker
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "◁think▷": "◁/think▷",  # Kimi-VL
    "<unused94>thought": "<unused95>",  # MedGemma
}
"""Opening and closing marks; tags of the kind ``<seed:think>``, ``<thinking>`` and ``<thought>`` come beside them."""

_TAG = r"(?:[a-z][\w.-]{0,20}[:_])?(?:think|thinking|thoughts?)"
_OPEN = "|".join([rf"<{_TAG}>", *map(re.escape, list(PAIRS)[1:])])
_CLOSE = "|".join([rf"</{_TAG}>", *map(re.escape, list(PAIRS.values())[1:])])
_MARK = re.compile(rf"(?P<open>{_OPEN})|(?P<close>{_CLOSE})", re.IGNORECASE)
_QUOTES = "`'\"“‘"
_WRAPPERS = (
    ("<answer>", "</answer>"),
    ("<response>", "</response>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
)
"""Around the answer of models that mark it as well; taken off only where there was thinking."""

_CHANNEL_MARK = re.compile(r"(<\|(?:start|message|channel|constrain|end|return|call|eom|eot)\|>)")
_CHANNELS = ("<|channel|>", "<|message|>")
# The same channels from a server that leaves control tokens out: "analysisWe need 3+4.assistantfinalThe answer is 7."
_BARE_CHANNEL = re.compile(r"\s*analysis(?=[A-Z\"'(])")
_BARE_FINAL = "assistantfinal"
_GRANITE, _GRANITE_ANSWER = "Here is my thought process:", "Here is my response:"

TEXT_KEYS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
"""Fields of a message, and of a part, that hold thinking text, by the servers' names."""
_ANSWER_TYPES = frozenset({"text", "output_text"})
_THINKING_TYPES = frozenset(
    {"thinking", "reasoning", "reasoning_text", "reasoning.text", "reasoning.summary", "thought"}
)
_DEEPEST, _MOST_PARTS = 6, 10_000


class Separated(NamedTuple):
    """A model's text in its two parts."""

    thinking: str
    answer: str
    """Empty if the text ends inside its thinking."""
    unfinished: bool
    """The text ends inside its thinking."""


def separate(text: str, *, opened: bool = False) -> Separated:
    """Return thinking and answer of a model's text, in linear time; a text without marks is all answer.

    Marks in quotes or backticks are mentioned, not used. A closing mark without an opening one ends thinking that began
    in the prompt, as the templates of DeepSeek R1 and Qwen3-Thinking have it.

    Args:
        text: what the model wrote.
        opened: the prompt ends with an opening mark, so that the text begins inside the thinking.
    """
    if any(mark in text for mark in _CHANNELS):
        return _separate_channels(text)
    if bare := _BARE_CHANNEL.match(text):
        thinking, final, answer = text[bare.end() :].rpartition(_BARE_FINAL)
        return _separated([thinking if final else answer], [answer] if final else [], unfinished=not final)
    if text.lstrip().startswith(_GRANITE):
        thinking, response, answer = text.partition(_GRANITE)[2].partition(_GRANITE_ANSWER)
        return _separated([thinking], [answer], unfinished=not response)
    thoughts: list[str] = []
    answers: list[str] = []
    inside, seen, start, end = opened, opened, 0, len(text.rstrip())
    for mark in _MARK.finditer(text):
        opens = mark["open"] is not None
        quoted = mark.start() > 0 and text[mark.start() - 1] in _QUOTES
        # A closing mark after a complete block, and nothing behind it, ends nothing: the answer stays an answer.
        stray = not opens and not inside and seen and mark.end() >= end
        if quoted or (opens and inside):
            continue
        (thoughts if inside else answers).append(text[start : mark.start()])
        start = mark.end()
        if not opens and not inside and not stray:
            thoughts.extend(answers)
            answers.clear()
        inside, seen = opens, True
    if not seen:
        return Separated("", text, unfinished=False)
    (thoughts if inside else answers).append(text[start:])
    return _separated(thoughts, answers, unfinished=inside)


def _separated(thoughts: list[str], answers: list[str], *, unfinished: bool) -> Separated:
    if unfinished:
        # What stands before unfinished thinking is no final answer either: the model was about to go on.
        thoughts, answers = [*answers, *thoughts], []
    answer = "".join(answers).strip()
    for left, right in _WRAPPERS:
        if answer.startswith(left):
            answer = answer[len(left) :].partition(right)[0].strip()
    return Separated("\n\n".join(filter(None, map(str.strip, thoughts))), answer, unfinished)


def _separate_channels(text: str) -> Separated:
    """Read the messages of a text in OpenAI's harmony form: a header, ``<|message|>``, a body, an end.

    A text begins inside a header, since the prompt ends with ``<|start|>assistant``, or inside the answer.
    """
    thoughts: list[str] = []
    answers: list[str] = []
    header: list[str] = []
    body, unfinished = False, False
    thinks = False
    for piece in _CHANNEL_MARK.split(text):
        if piece == "<|message|>":
            named = "".join(header)
            thinks = "final" not in named and any(word in named for word in ("analysis", "commentary", "to=self"))
            body, unfinished = True, thinks
        elif _CHANNEL_MARK.fullmatch(piece):
            if piece != "<|constrain|>":
                header = []
            # "<|end|><|start|>assistant" and the end of the text: an answer is still to come.
            body = False
        elif body:
            (thoughts if thinks else answers).append(piece)
        else:
            header.append(piece)
    return _separated(thoughts, answers, unfinished=unfinished)


def thinking_of(message: Mapping[str, Any]) -> str:
    """Return the thinking text in a message's own fields and in the parts of its content; empty if there is none."""
    fields = [text for key in TEXT_KEYS if (text := "".join(_texts(message.get(key), thinks=True)))]
    details = "".join(_texts(message.get("reasoning_details"), thinks=True)) if not fields else ""
    content = message.get("content")
    parts = "".join(_thinking_parts(content)) if isinstance(content, list) else ""
    # Some servers send the same text under two names.
    return "\n\n".join(dict.fromkeys(text.strip() for text in (*fields, details, parts) if text.strip()))


def answer_of(content: Any) -> str | None:
    """Return the text of a message's content; of a list of parts only the text, not thinking or pictures."""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    texts = list(_texts([part for part in content if not _is_thinking(part)], thinks=False))
    return "".join(texts) if texts else None


def _thinking_parts(content: list[Any]) -> Iterator[str]:
    for part in content[:_MOST_PARTS]:
        if _is_thinking(part):
            yield from _texts(part, thinks=True)


def _is_thinking(part: Any) -> bool:
    return isinstance(part, dict) and (part.get("type") in _THINKING_TYPES or part.get("thought") is True)


def _texts(value: Any, *, thinks: bool, depth: int = 0) -> Iterator[str]:
    """Yield the texts of a string, a part or nested parts, as Mistral nests them: ``{"thinking": [{"text": ...}]}``."""
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value[:_MOST_PARTS]:
            yield from _texts(part, thinks=thinks, depth=depth + 1)
    elif isinstance(value, dict):
        known = _THINKING_TYPES | _ANSWER_TYPES if thinks else _ANSWER_TYPES
        if value.get("type", "text") in known:
            keys = ("text", *TEXT_KEYS, "summary", "content") if thinks else ("text", "content")
            found = next((value[key] for key in keys if value.get(key)), None)
            yield from _texts(found, thinks=thinks, depth=depth + 1)

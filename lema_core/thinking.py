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
    "<seed:think>": "</seed:think>",  # Seed-OSS
    "[THINK]": "[/THINK]",  # Magistral
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A Reasoning
    "<|begin_of_thought|>": "<|end_of_thought|>",  # Sky-T1, OpenThinker
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "◁think▷": "◁/think▷",  # Kimi-VL
    "<unused94>thought": "<unused95>",  # MedGemma
}
"""Opening and closing marks of models, for writing thinking; `separate` reads these and their kin."""

_MARK = re.compile(
    r"""<\|channel\|?>\s{0,3}(?P<channel>[a-z]{1,20})(?:[^<\n]{0,80}<\|message\|?>)?
    |(?P<open><\|inner_prefix\|>|<unused94>(?:thought)?)
    |(?P<end><channel\|>|<\|inner_suffix\|>|<unused95>)
    |[<◁](?P<close>/?)(?:[a-z]{1,12}[:_-])?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|scratch_?pad|analysis
        |(?:inner_?)?monologue)(?:_(?:process|steps?|content))?\s{0,3}[>▷]
    |<\|(?:(?P<closetoken>/|end[a-z_]{0,8}?_?)|[a-z_]{0,16}?)(?:thought|thinking|think|reasoning)s?\|>
    |\[(?P<closebracket>/?)THINK(?:ING)?\]""",
    re.VERBOSE | re.IGNORECASE,
)
_NO_TAG = re.compile(r"(?:[^<]*+<(?:<[^<|/A-Za-z]|[^<|/A-Za-z]))*+[^<]*+")
"""A text without a tag or a token; ``<<3*4=12>>`` is none. The fastest way to look: every solution is."""
_BRACKET = re.compile(r"\[/?THINK", re.IGNORECASE)
_QUOTES = frozenset("`'\"“”‘’")
_HARMONY = "<|message|>"
_HARMONY_MARK = re.compile(r"(<\|(?:start|message|channel|constrain|end|return|call|eom|eot)\|>)")
# The same channels from a server that leaves control tokens out: "analysisWe need 3+4.assistantfinalThe answer is 7."
_BARE_CHANNEL, _BARE_FINAL = "analysis", "assistantfinal"
_GRANITE, _GRANITE_ANSWER = "Here is my thought process:", "Here is my response:"
_BARE = (_BARE_CHANNEL, _GRANITE)

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


def may_think(text: str) -> bool:
    """Whether a text may hold a mark of thinking; False is sure. It is fast, for every solution passes it."""
    if "<" in text and _NO_TAG.fullmatch(text) is None:
        return True
    if text.startswith(_BARE) or "◁" in text:
        return True
    return "[" in text and _BRACKET.search(text) is not None


def strip_thinking(text: str) -> str | None:
    """Return the text without its thinking; None where it ends within its thinking, or holds nothing else."""
    if not may_think(text):
        return text
    found = separate(text)
    return found.answer if found.answer or not found.thinking else None


def separate(text: str, *, is_open: bool = False) -> Separated:
    """Return thinking and answer of a model's text, in linear time; a text without marks is all answer.

    A mark in quotes or backticks is mentioned, not used. A closing mark without an opening one ends thinking that began
    in the prompt, as the templates of DeepSeek R1 and Qwen3-Thinking have it.

    Args:
        text: what the model wrote.
        is_open: thinking began in the prompt and the text was cut off: without a mark it is all thinking.
    """
    unmarked = Separated(text.strip(), "", unfinished=True) if is_open else Separated("", text, unfinished=False)
    if not may_think(text):
        return unmarked
    if _HARMONY in text:
        return _separate_messages(text)
    if text.startswith(_BARE_CHANNEL) and text[len(_BARE_CHANNEL) :][:1].isupper():
        thinking, final, answer = text[len(_BARE_CHANNEL) :].rpartition(_BARE_FINAL)
        return _separated([thinking if final else answer], [answer] if final else [], unfinished=not final)
    if text.startswith(_GRANITE):
        thinking, response, answer = text[len(_GRANITE) :].partition(_GRANITE_ANSWER)
        return _separated([thinking], [answer], unfinished=not response)
    thoughts: list[str] = []
    answers: list[str] = []
    thinks, seen, start = False, False, 0
    for mark in _MARK.finditer(text):
        around = text[max(0, mark.start() - 1) : mark.start()], text[mark.end() : mark.end() + 1]
        if all(sign in _QUOTES for sign in around):
            continue
        if mark["channel"] is not None:
            opens = mark["channel"].lower() != "final"
        else:
            opens = not (mark["close"] or mark["closetoken"] or mark["closebracket"] or mark["end"])
        if opens and thinks:
            continue
        (thoughts if thinks else answers).append(text[start : mark.start()])
        if not opens and not thinks and mark["channel"] is None:
            # The template opened the thinking: what stands before its end is thinking.
            thoughts.extend(answers)
            answers.clear()
        thinks, seen, start = opens, True, mark.end()
    if not seen:
        return unmarked
    (thoughts if thinks else answers).append(text[start:])
    return _separated(thoughts, answers, unfinished=thinks)


def _separated(thoughts: list[str], answers: list[str], *, unfinished: bool) -> Separated:
    if unfinished:
        # What stands before unfinished thinking is no final answer either: the model was about to go on.
        thoughts, answers = [*answers, *thoughts], []
    answer = "\n".join(part for part in map(str.strip, answers) if part)
    return Separated("\n\n".join(part for part in map(str.strip, thoughts) if part), answer, unfinished)


def _separate_messages(text: str) -> Separated:
    """Read the messages of a text in OpenAI's harmony form: a header, ``<|message|>``, a body, an end.

    The prompt ends with ``<|start|>assistant``, so a text begins inside a header.
    """
    thoughts: list[str] = []
    answers: list[str] = []
    header: list[str] = []
    in_body = thinks = False
    for piece in _HARMONY_MARK.split(text):
        if piece == _HARMONY:
            named = "".join(header)
            thinks = "final" not in named and any(word in named for word in ("analysis", "commentary", "to=self"))
            in_body = True
        elif _HARMONY_MARK.fullmatch(piece):
            header = header if piece in ("<|constrain|>", "<|channel|>") else []
            in_body = False
        elif in_body:
            (thoughts if thinks else answers).append(piece)
        else:
            header.append(piece)
    # After a message of thinking an answer is still to come, also where only its header was cut off.
    return _separated(thoughts, answers, unfinished=thinks)


def joined_thinking(*texts: str) -> str:
    """Return thinking texts as one; some servers send the same text under two names."""
    return "\n\n".join(dict.fromkeys(text.strip() for text in texts if text.strip()))


def thinking_of(message: Mapping[str, Any]) -> str:
    """Return the thinking text in a message's own fields and in the parts of its content; empty if there is none."""
    fields = [text for key in TEXT_KEYS if (text := "".join(_texts(message.get(key), thinks=True)))]
    details = "".join(_texts(message.get("reasoning_details"), thinks=True)) if not fields else ""
    content = message.get("content")
    parts = "".join(_thinking_parts(content)) if isinstance(content, list) else ""
    return joined_thinking(*fields, details, parts)


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

r"""The part of a model's text that is for its reader: without thinking and control tokens.

Thinking that is finished is not read; a text that ends inside its thinking says nothing. Known are tags
(``<think>``, ``<reasoning>``, ``[THINK]``), tokens (``<|begin_of_thought|>``) and channels (``<|channel|>analysis``).
"""

import re

_MARK = re.compile(
    r"""<\|channel\|?>\s{0,3}(?P<channel>[a-z]{1,20})(?:[^<\n]{0,80}<\|message\|?>)?
    |(?P<channelend><channel\|>)
    |[<◁](?P<close>/?)(?:[a-z]{1,12}[:_-])?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|scratch_?pad|analysis
        |(?:inner_?)?monologue)(?:_(?:process|steps?|content))?\s{0,3}[>▷]
    |<\|(?:(?P<closetoken>/|end[a-z_]{0,8}?_?)|[a-z_]{0,16}?)(?:thought|thinking|think|reasoning)s?\|>
    |\[(?P<closebracket>/?)THINK(?:ING)?\]""",
    re.VERBOSE | re.IGNORECASE,
)
_NO_TAG = re.compile(r"(?:[^<]*+<(?:<[^<|/A-Za-z]|[^<|/A-Za-z]))*+[^<]*+")
"""A text without a tag or a token; ``<<3*4=12>>`` is none. The fastest way to look: every solution is."""
_CONTROL = r"""<[|｜][A-Za-z0-9_▁/ .-]{1,40}[|｜]>|<\|?(?:start|end)_of_(?:turn|text)\|?>|</?s>|<(?:eos|bos|pad|unk)>
    |\[/?INST\]|\[(?:EOS|SEP|PAD|CLS)\]|<turn\|>"""
CONTROL_TOKEN = re.compile(_CONTROL, re.VERBOSE | re.IGNORECASE)
"""A token of a chat template in a text: the end of an answer, or the beginning of another turn."""
_FIRST_TOKENS = re.compile(
    rf"\s*+(?:(?:{_CONTROL})\s*+(?:(?:assistant|model)\b(?=\s*+(?:{_CONTROL})|[ \t]*+\n)\s*+)?+)++",
    re.VERBOSE | re.IGNORECASE,
)
_NEXT_TURN = re.compile(
    rf"(?:{_CONTROL})\s*+(?:(?:{_CONTROL})\s*+)?+(?:user|human|system)\b", re.VERBOSE | re.IGNORECASE
)
MAX_TOKENS = 50
"""Up to this many control tokens are taken off the end of a text."""
LONGEST_TOKEN = 50


def may_think(text: str) -> bool:
    """Whether a text may hold a mark of thinking; False is sure. It is fast, for every solution passes it."""
    if "<" in text and _NO_TAG.fullmatch(text) is None:
        return True
    return ("[" in text and "[THINK" in text) or "◁" in text or text.startswith("analysis")


def strip_thinking(text: str) -> str | None:
    """Return the text without its thinking; None where it ends within its thinking, or holds nothing else."""
    if not may_think(text):
        return text
    if text.startswith("analysis") and text[8:9].isupper():  # the channels of gpt-oss, their tokens skipped
        return text.rpartition("assistantfinal")[2] if "assistantfinal" in text else None
    parts: list[str] = []
    thinks, start, seen = False, 0, False
    for mark in _MARK.finditer(text):
        seen = True
        if mark["channel"] is not None:
            opens = mark["channel"].lower() != "final"
        else:
            opens = not (mark["close"] or mark["closetoken"] or mark["closebracket"] or mark["channelend"])
        if opens and not thinks:
            parts.append(text[start : mark.start()])
        elif not opens and not thinks and mark["channel"] is None:
            parts.clear()  # the template opened the thinking: what stands before its end is thinking
        thinks, start = opens, mark.end()
    if not seen:
        return text
    if thinks:
        return None
    said = "\n".join([*parts, text[start:]])
    return said if said.strip() else None


def strip_end_tokens(text: str) -> str:
    """Return the text without the control tokens that it begins and ends with, up to where the user's turn follows."""
    if not any(sign in text for sign in ("<", "[")):
        return text
    first = _FIRST_TOKENS.match(text)
    start = first.end() if first else 0
    following = _NEXT_TURN.search(text, start)
    return text[start : _last_tokens(text, following.start() if following else len(text))]


def _last_tokens(text: str, end: int) -> int:
    """Return where the control tokens in front of ``end`` begin."""
    for _ in range(MAX_TOKENS):
        closing = end
        while closing and text[closing - 1].isspace():
            closing -= 1
        opening = max(text.rfind(sign, max(0, closing - LONGEST_TOKEN), closing) for sign in "<[")
        if opening < 0 or not CONTROL_TOKEN.fullmatch(text, opening, closing):
            break
        end = opening
    return end

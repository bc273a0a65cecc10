r"""What stands in ``\boxed{...}``: the braces that belong together, and boxes that are one answer together."""

import re

from lema_core.answers.types import Family

MAX_BRACES = 5_000

_CONNECTOR = re.compile(r"[,;+&]|\b(?:and|or)\b|quad")
_JOINED = re.compile(r"(?:[\s,;$.+\\]|\\[\])(\[]|\\quad|\\text\s*\{[^{}]{0,40}\}|\b(?:and|or)\b){0,12}")


def boxed(text: str, cue: re.Match[str], cues: list[re.Match[str]], family: Family) -> str | None:
    """Return the content of a cue's box; LaTeX boxes joined by commas or words are one answer of several parts."""
    content, start = _box_content(text, cue.end()), cue.start()
    if content is None or family != "latex":
        return content[0] if content else None
    parts = [content[0]]
    for earlier in reversed([other for other in cues if other.lastgroup == "boxed" and other.start() < cue.start()]):
        inner = _box_content(text, earlier.end())
        gap = text[inner[1] : start] if inner else ""
        if inner is None or not _JOINED.fullmatch(text, inner[1], start) or (gap and not _CONNECTOR.search(gap)):
            break
        parts.append(inner[0])
        start = earlier.start()
    return ", ".join(dict.fromkeys(reversed(parts)))


def _box_content(text: str, at: int) -> tuple[str, int] | None:
    """Return the balanced content of a box and where it ends; an unbalanced box has none."""
    if text[at : at + 1] == " " and text[at : at + 2] != " {":
        end = re.compile(r"[$\n]|\.(?![0-9])").search(text, at + 1)
        stop = end.start() if end else len(text)
        return (text[at:stop].strip(), stop) if stop - at < 200 else None
    start = text.find("{", at) + 1
    depth = braces = 1
    for found in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        if found.group() not in {"{", "}"}:
            continue
        depth += 1 if found.group() == "{" else -1
        braces += 1
        if depth == 0:
            return text[start : found.start()], found.end()
        if braces > MAX_BRACES:
            return None
    return None

"""Text of models and endpoints as it may be shown: without what a terminal takes for a command."""

import re

_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?)")
"""Colours and cursor moves, and the strings that set a title or the clipboard; taken out whole."""
_CONTROLS = [
    *(code for code in range(0x20) if chr(code) not in "\n\t"),
    *range(0x7F, 0xA0),
    # Marks that reverse the order in which text is shown, and separators that end a line for some programs.
    *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),
]
_SHOWN = dict.fromkeys(_CONTROLS, "\ufffd")


def printable(text: str) -> str:
    """Return text without terminal sequences, control characters (line ends and tabs stay) and half surrogates."""
    if text.isprintable():
        return text
    text = text.encode("utf-8", "replace").decode()
    return _SEQUENCE.sub("", text.replace("\r\n", "\n")).translate(_SHOWN)


def one_line(text: str, most: int | None = None) -> str:
    """Return printable text in one line, of at most ``most`` characters."""
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    return text if text.isprintable() else " ".join(printable(text).split())

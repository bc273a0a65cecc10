"""Text of others as we may write and show it: without keys, terminal commands and the values of a foreign error.

A server may repeat a request, so keys are removed however it spells them. Detected spellings: as it is; in JSON, also
in JSON within JSON; percent-encoded; HTML-escaped; in base64 (of the key, of the header, of a longer text that holds
it) and in hex; in other case; each also broken by line ends or blanks.
"""

import base64
import ctypes
import html.entities
import os
import re
import resource
import traceback
from functools import cache
from pathlib import Path
from typing import AnyStr, Final

from lema_core.errors import LemaError, UnexpectedError

SHORTEST = 5
"""A shorter secret stays: it would match in every text."""
LOOSE_FROM = 16
"""Shorter keys are place-holders (``EMPTY``, ``test-key``) and are words of texts in other case or broken."""
_PIECE: Final = 6
_BREAK = rb"(?:\s|\\{1,16}(?:[rnt]|u000[ad9])|\\{1,16}(?=\s)|=(?=\r?\n)|%0[ad]|&#(?:1[03]|x0?[ad]);|<br ?/?>){0,8}"
"""What may stand between two characters of a key. Everything is bounded: a pattern on foreign text must be linear."""
# Each begins with one certain byte, which makes the search for it fast.
_ESCAPES = (re.compile(rb"%[0-9a-fA-F]{2}"), re.compile(rb"&(?:#|[a-zA-Z]{2,12};)"), re.compile(rb"\\(?:/|u00)"))


class Redactor:
    """Removes one secret from text of servers."""

    def __init__(self, secret: str) -> None:
        self._plain = secret.encode("utf-8", "surrogatepass")
        self._active = len(secret) >= SHORTEST
        self._loose = len(secret) >= LOOSE_FROM
        # The pattern of a key in every spelling; of a short one only escaped, in its own case and unbroken.
        gap = _BREAK if self._loose else b""
        patterns = [gap.join(_character(byte) for byte in self._plain)]
        if self._loose:
            patterns += [
                gap.join(_character(byte) if byte in b"+/=" else re.escape(bytes([byte])) for byte in core)
                for core in _base64_cores(self._plain)
            ]
            patterns.append(gap.join(b"%02x" % byte for byte in self._plain))
        self._spellings = re.compile(b"|".join(patterns), re.IGNORECASE if self._loose else 0)
        self._pieces, self._cased = _pieces_of(self._plain) if self._loose else ((), ())

    def redact(self, said: AnyStr) -> AnyStr:
        """Return a text, or a body of JSON, with ``***`` in place of the secret; one of up to four characters stays."""
        if isinstance(said, bytes):
            return self._clean(said)
        return self._clean(said.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def _clean(self, content: bytes) -> bytes:
        if not self._active:
            return content
        content = content.replace(self._plain, b"***")
        # The pattern costs a hundred times what these searches cost, and few bodies need it.
        return self._spellings.sub(b"***", content) if self._suspects(content) else content

    def _suspects(self, content: bytes) -> bool:
        """Return whether a text may hold another spelling: a broken or re-cased one leaves some piece whole."""
        if any(escape.search(content) for escape in _ESCAPES):
            return True
        if not self._loose:
            return False
        if any(piece in content for piece in self._cased):
            return True
        small = content.lower()
        return any(piece in small for piece in self._pieces)


def _pieces_of(key: bytes) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return pieces of a key in small letters, and those of its encodings as they are."""
    small = key.lower()
    plain = tuple(small[at : at + _PIECE] for at in range(0, len(small) - _PIECE + 1, _PIECE))
    hexed = key.hex().encode()
    cased = [core[at : at + 8] for core in _base64_cores(key) for at in (0, len(core) // 2, len(core) - 8)]
    return (*plain, hexed[:12], hexed[-12:]), tuple(dict.fromkeys(cased))


def _base64_cores(key: bytes) -> tuple[bytes, ...]:
    """Return the base64 of a key at each offset in a longer text, without the characters that its neighbours change."""
    cores = []
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + key)
        # The first characters hold bits of the text before, the last ones of the text after.
        start, end = -(-8 * offset // 6), len(encoded) - (0 if (offset + len(key)) % 3 == 0 else 4)
        cores.append(encoded[start:end])
        cores.append(base64.urlsafe_b64encode(b"\0" * offset + key)[start:end])
    return tuple(dict.fromkeys(cores))


@cache
def _character(byte: int) -> bytes:
    r"""Return the pattern of one character as JSON (``\/``, ``\u002b``), a URL or HTML may spell it, more than once."""
    own = re.escape(bytes([byte]))
    code = rb"(?i:%02x)" % byte
    names = b"".join(b"|&(?:amp;){0,3}" + name + b";" for name in _NAMES.get(byte, ()))
    numbers = rb"(?:0{0,6}%d|[xX]0{0,6}%s);?" % (byte, code)
    return (
        rb"(?:" + own + rb"|\\{1,16}(?:" + own + rb"|u00" + code + rb")|%(?:25){0,3}" + code + rb"|&(?:amp;){0,3}#"
        + numbers + names + rb")"
    )  # fmt: skip


_NAMES: dict[int, list[bytes]] = {}
for _name, _value in html.entities.html5.items():
    if len(_value) == 1 and ord(_value) < 0x80 and _name.endswith(";"):
        _NAMES.setdefault(ord(_value), []).append(re.escape(_name[:-1].encode()))


_SECRET_NAME = re.compile(r"key|token|secret|pass|pwd|credential|auth", re.IGNORECASE)
_known: dict[str, Redactor] = {}


def get_redactor(secret: str) -> Redactor:
    """Return the redactor of a secret; from now on `redact_secrets` removes it from every text."""
    # Compiled once per secret: every error of a run passes here.
    known = _known.get(secret)
    if known is None:
        known = _known[secret] = Redactor(secret)
    return known


def redact_secrets(text: str) -> str:
    """Return a text without the secrets that this process has read or has in its environment.

    It is for errors of unknown origin, so it may remove too much.
    """
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= LOOSE_FROM:
            get_redactor(value)
    for redactor in list(_known.values()):
        text = redactor.redact(text)
    return text


_PR_SET_DUMPABLE = 4


def disable_core_dumps() -> None:
    """Ask the kernel to write no core dump of this process, nor of those it starts.

    The limit is inherited by what we start, and a handler behind a pipe (systemd, apport) ignores it; the flag stops
    that too, on Linux, and is this process's own. As with any private process, its memory is then closed to debuggers
    of the same user.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


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


LONGEST = 600
"""Characters that are kept of a foreign error's text."""
_FRAMES = 4
OURS = ("lema_core", "tasks", "flows")


def to_lema_error(error: BaseException) -> LemaError:
    """Return an error of our tree for any other: its message without secrets and its place, no cause, no values.

    An error of ours is returned as it is, without its cause and context. Raise the result outside of the handler, or
    Python adds the foreign error as its context.
    """
    if isinstance(error, LemaError):
        error.__cause__ = error.__context__ = None
        return error
    said = one_line(redact_secrets(str(error)), LONGEST)
    if isinstance(error, OSError) and error.errno is not None:
        # Of the machine: a full disk, a path that may not be used.
        return UnexpectedError(f"{said}. Look whether the path is right, may be used, and has room.")
    if isinstance(error, MemoryError):
        return UnexpectedError("the memory of this machine, or of its limit, is used up. What was paid is kept.")
    return UnexpectedError(
        f"{type(error).__name__}: {said or 'without a text'} (at {error_places(error)}). LeMa did not expect this: it "
        "is a defect of LeMa or of a library. What was paid is kept; the same command goes on with it."
    )


def error_places(error: BaseException) -> str:
    """Return where an error arose: the innermost places in our code, and the one in a library, without values."""
    frames = traceback.extract_tb(error.__traceback__)
    # Only places: a frame's source line or its locals may hold a key.
    own = [frame for frame in frames if _module(frame.filename).split("/")[0] in OURS]
    chosen = own[-_FRAMES:] + [frame for frame in frames[-1:] if frame not in own]
    return (
        " > ".join(f"{_module(frame.filename)}:{frame.lineno} {frame.name}" for frame in chosen) or "an unknown place"
    )


def _module(file: str) -> str:
    parts = Path(file).parts
    starts = [at for at, part in enumerate(parts) if part in OURS or part == "site-packages"]
    inside = parts[starts[-1] :] if starts else parts[-1:]
    return "/".join(inside).removeprefix("site-packages/")

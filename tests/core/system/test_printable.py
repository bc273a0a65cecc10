"""No text of a model, an endpoint or a file can command the terminal that shows it."""

import io
import unicodedata

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flows.cli.console import SafeConsole
from lema_core.system.redaction import one_line, printable

COMMANDS = [
    "\x1b[2J",
    "\x1b[31;1mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]52;c;cm0gLXJm\x1b\\",
    "\x1bPq#0\x1b\\",
    "\x9b2J",
    "\x9d0;t\x9c",
    "\x1b",
    "\x1b]0;no end",
    "\x07",
    "\x08\x08\x08",
    "over\rwritten",
    "\x0b\x0c",
    "\x7f",
    "\u202egpj.exe",
    "\u2066\u2069",
    "\u200f",
    "\x1b[",
    "\x1b[1;2",
    "\u2028",
    "\x1b(0",
    "\x1bc",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_that_a_terminal_obeys_is_left(command):
    shown = printable(f"a{command}b\tc\nd")
    assert not any(unicodedata.category(char) in {"Cc", "Zl"} for char in shown if char not in "\n\t")
    assert not any(
        unicodedata.bidirectional(char) in {"RLO", "LRO", "RLI", "LRI", "RLE", "LRE", "PDF", "PDI"} for char in shown
    )
    assert shown.startswith("a")
    assert shown.endswith("b\tc\nd") or "no end" in command or command in {"\x1b[", "\x1b[1;2", "\x1b(0"}
    assert "\n" not in one_line(f"a{command}\nb")


def test_plain_text_of_any_language_stays():
    text = "½ × 3 = 1.5\n\t漢字 עברית العربية 👩‍👩‍👧 é"
    assert printable(text) == text
    assert printable("half \ud83d pair\r\n") == "half ? pair\n"


def test_a_line_has_a_limit():
    assert one_line("x" * 500, 10) == "x" * 9 + "…"
    assert one_line("a\n  b\tc") == "a b c"


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_holds_the_text_the_console_shows_it_harmless(command):
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=True, color_system=None, width=80)
    table = Table("column")
    table.add_row(Text(f"x{command}y"))
    console.print(f"x{command}y", Panel(f"x{command}y"), table, markup=False)
    assert not any(
        sign in out.getvalue() for sign in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\x08", "\u202e", "\r", "\x1bP")
    )

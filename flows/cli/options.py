"""``lema options``: what a run file may hold, with defaults and help from the specs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.console import console

if TYPE_CHECKING:
    from lema_core.run.options import OptionSection


def options(
    section: Annotated[str, typer.Argument(metavar="SECTION", help="As training, or training.adapter.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="All of it as one page: docs/run_file.md.")] = False,
) -> None:
    """Show the sections of a run file, or the options of one: type, default and what it does.

    Example: lema options corrections
    """
    from rich.table import Table

    from lema_core.errors import ConfigError
    from lema_core.run.options import run_options

    known = run_options()
    if markdown:
        typer.echo("\n".join(_page(known)))
        return
    if section and section not in known:
        raise ConfigError(f"there is no section {section!r}; there are {', '.join(filter(None, known))}")
    table = Table(*(("option", "type", "default", "what it does") if section else ("section", "what it is")))
    if section:
        one = known[section]
        console.print(_describe(one), markup=False)
        for option in one.options:
            table.add_row(option.name, option.kind, option.default, option.about)
    else:
        for known_section in known.values():
            table.add_row(known_section.title or "(before the first section)", _describe(known_section))
    console.print(table, markup=False)


def _describe(section: "OptionSection") -> str:
    return f"{section.about} Its options are those of {section.like}." if section.like else section.about


def _page(known: "dict[str, OptionSection]") -> Iterator[str]:
    yield "# The run file"
    yield ""
    yield "Every section and option, by `lema options --markdown`; `lema options SECTION` shows one in a terminal."
    yield "`needed` options have no default; `none` as a default means that nothing is set."
    for section in known.values():
        yield f"\n## {_cell(section.title) or 'Before the first section'}\n\n{_describe(section)}"
        if section.options:
            yield "\n| option | type | default | what it does |\n|---|---|---|---|"
        for option in section.options:
            cells = (f"`{option.name}`", option.kind, f"`{option.default}`" if option.default else "", option.about)
            yield f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<name>", "NAME")

"""``lema ledger``: what was paid for, by run, endpoint and day; the request behind a key; export and import."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from flows.cli.console import console, exit_on_error
from flows.cli.run import ROOT_VARIABLE
from lema_core.errors import ConfigError

if TYPE_CHECKING:
    from lema_core.llm.ledger.store import By, LedgerStore

ledger_app = typer.Typer(help="Look into the ledger of paid completions.")


Where = Annotated[
    str,
    typer.Option(
        "--ledger",
        help="The ledger's file or postgresql:// URL.",
        default_factory=str,
        show_default="the ledger under LEMA_ROOT, else .lema",
    ),
]


@contextmanager
def _open_ledger(where: str) -> Iterator["LedgerStore"]:
    from lema_core.errors import LedgerError
    from lema_core.llm.ledger.database import is_postgres

    where = where or _default_ledger()
    if not is_postgres(where) and not os.path.isfile(where):  # noqa: PTH113 - no error where a folder cannot be entered
        raise LedgerError(f"there is no ledger at {where}; name one with --ledger")
    with _open_or_create_ledger(where) as store:
        yield store


@contextmanager
def _open_or_create_ledger(where: str) -> Iterator["LedgerStore"]:
    from lema_core.llm.ledger.store import LedgerStore

    store = LedgerStore(where or _default_ledger())
    try:
        yield store
    finally:
        store.close()


def _default_ledger() -> str:
    from lema_core.run.spec import ledger_under

    return ledger_under(os.environ.get(ROOT_VARIABLE) or ".lema")


@ledger_app.callback(invoke_without_command=True)
@exit_on_error
def totals(
    context: typer.Context,
    ledger: Where,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: by run, endpoint and day.")] = False,
) -> None:
    """Show requests, tokens and money by run, by endpoint and by day.

    Cached tokens are part of the prompt tokens, reasoning tokens of the completion tokens. The cost is null where no
    price is known.
    """
    if context.invoked_subcommand is not None:
        source = context.get_parameter_source("ledger")
        if source and source.name == "COMMANDLINE":
            raise ConfigError(f"write --ledger behind the word: lema ledger {context.invoked_subcommand} --ledger ...")
        return
    from rich.table import Table

    from lema_core.llm.costs.prices import money
    from lema_core.llm.ledger.store import By

    with _open_ledger(ledger) as store:
        rows = {by: _read_totals(store, by) for by in get_args(By)}
    if as_json:
        # Not by the console, which breaks lines at the terminal's width.
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for by, groups in rows.items():
        table = Table(by, *(name.replace("_", " ") for name in _COUNTS), "cost", box=None)
        for group in groups:
            table.add_row(str(group[by]), *(str(group[name]) for name in _COUNTS), money(group["cost"]))
        console.print(table)
        console.print()


_COUNTS = (
    *("completions", "failed_attempts", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"),
)


def _read_totals(store: "LedgerStore", by: "By") -> list[dict[str, Any]]:
    """Return the totals of each run, endpoint or day, by name of the figure."""
    details, rows = store.detail_totals(by), list[dict[str, Any]]()
    for group, completions, failed, prompt, completion, cost in store.totals(by):
        cached, reasoning = details.get(str(group), (0, 0))
        counts = (completions, failed, prompt, cached, completion, reasoning)
        rows.append({by: str(group), **dict(zip(_COUNTS, map(int, counts), strict=True)), "cost": cost})
    return rows


@ledger_app.command("explain")
@exit_on_error
def explain(
    key: Annotated[str, typer.Argument(help="A key, or its beginning, as in the column request_key.")],
    ledger: Where,
    other: Annotated[str, typer.Argument(help="A second key: say why the two differ.")] = "",
) -> None:
    """Show what went into a request's key; given two, why they differ.

    The key is made from the endpoint's identity, the messages, the parameters that can change the answer and the sample
    index. URL, port, API key and the order of fields do not enter.
    """
    from lema_core.llm.ledger.files import diff_requests, find_entry

    with _open_ledger(ledger) as store:
        first = find_entry(store, key)
        if not other:
            console.print(json.dumps(first, indent=2, ensure_ascii=False), markup=False)
            return
        second = find_entry(store, other)
    lines = diff_requests(first["request"], second["request"]) or ["nothing: it is the same request"]
    for line in lines:
        console.print(line, markup=False)


@ledger_app.command("export")
@exit_on_error
def export(
    path: Annotated[Path, typer.Argument(metavar="FILE.parquet", help="Where to write.")], ledger: Where
) -> None:
    """Write every completion, with its request, to a Parquet file."""
    from lema_core.llm.ledger.files import export_ledger

    with _open_ledger(ledger) as store:
        console.print(f"{export_ledger(store, path)} completions in {path}")


@ledger_app.command("import")
@exit_on_error
def import_(
    path: Annotated[Path, typer.Argument(metavar="FILE.parquet", help="A file that `lema ledger export` wrote.")],
    ledger: Where,
) -> None:
    """Add a file's completions; those that the ledger already holds stay. A missing ledger is created."""
    from lema_core.llm.ledger.files import import_ledger

    with _open_or_create_ledger(ledger) as store:
        read, new = import_ledger(store, path)
    console.print(f"{new} of {read} completions were new")


@ledger_app.command("backup")
@exit_on_error
def backup(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the copy.")], ledger: Where
) -> None:
    """Copy a ledger in SQLite while it is in use; the copy is a ledger, and only you may read it.

    A copy of the file by other programs (cp, rsync) lacks what is still in the log beside it. A ledger in PostgreSQL is
    copied by pg_dump.

    Example: lema ledger backup backups/ledger.sqlite
    """
    from lema_core.llm.ledger.files import back_up

    with _open_ledger(ledger) as store:
        back_up(store, path)
    console.print(f"the ledger is copied to {path}", markup=False)


@ledger_app.command("forget-batch")
@exit_on_error
def forget_batch(
    batch: Annotated[str, typer.Argument(help="The batch's id in the ledger, as the error message named it.")],
    ledger: Where,
) -> None:
    """Give up a batch that its endpoint no longer knows: the next run sends its pending requests again."""
    from lema_core.llm.batch import records as batch_records

    with _open_ledger(ledger) as store:
        pending = batch_records.forget_batch(store, batch)
    console.print(f"the batch is given up; {pending} requests are bought again when they are asked for")

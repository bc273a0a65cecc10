"""``lema explain ID``: a row's ancestry, back to the question it came from and the request that paid for it."""

from typing import Annotated

import typer

from flows.cli.console import console


def explain(
    row_id: Annotated[
        str, typer.Argument(metavar="ID", help="An id from any table: of a question, path, correction ...")
    ],
    root: Annotated[str, typer.Option(help="The root the run was made under.")] = ".lema",
) -> None:
    """Show where a row came from: question, path, verdict, correction, example, and the requests that paid for it.

    For a rejected row it shows the reason. The request keys can be looked up with `lema ledger explain KEY`.
    """
    from rich.panel import Panel

    from lema_core.artifacts.derivation import trace_ancestry

    for found in trace_ancestry(f"{root.rstrip('/')}/store", row_id):
        lines = [f"[bold]{name}[/bold]: {_escape(value)}" for name, value in found.fields.items()]
        console.print(Panel("\n".join(lines), title=f"{found.stage} {found.fingerprint}", title_align="left"))


def _escape(value: object) -> str:
    from rich.markup import escape

    return escape(str(value))

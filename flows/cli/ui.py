"""``lema ui``: the Prefect server and UI that runs are shown in."""

from typing import Annotated

import typer

from flows.cli.console import console
from flows.operations.server import HOME, api_url, ensure_server, running_port, stop, ui_url

ui_app = typer.Typer(help="The Prefect server and UI that `lema run` starts when PREFECT_API_URL is not set.")


@ui_app.command("start")
def start_command() -> None:
    """Start the server (if it is not there already) and say where its UI is."""
    console.print(f"Prefect UI: {ui_url(ensure_server(), 'dashboard')}")


@ui_app.command("stop")
def stop_command() -> None:
    """Stop the server that was started from this directory. Its history stays."""
    console.print("stopped" if stop(HOME) else "no server was running")


@ui_app.command("status")
def status_command(quiet: Annotated[bool, typer.Option(help="Print only the API URL.")] = False) -> None:
    """Say whether the server is running and where."""
    port = running_port(HOME)
    if port is None:
        console.print("not running; `lema ui start` starts it")
        raise typer.Exit(1)
    console.print(api_url(port) if quiet else f"running: {ui_url(api_url(port), 'dashboard')} (API {api_url(port)})")

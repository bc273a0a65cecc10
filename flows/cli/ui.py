"""``lema ui``: the Prefect server and UI that runs are shown in."""

from typing import Annotated

import typer

from flows.cli.console import console
from flows.local_stack.server import HOME, api_url, client_settings, ensure_server, login_url, running_port, stop
from lema_core.errors import ConfigError

ui_app = typer.Typer(help="The Prefect server and UI that `lema run` starts when PREFECT_API_URL is not set.")


@ui_app.command("start")
def start_command() -> None:
    """Start the server (if it does not run already) and print an address that logs your browser in, once."""
    console.print(f"Prefect UI: {login_url(ensure_server(), 'dashboard')}")


@ui_app.command("env")
def env_command() -> None:
    """Print the settings with which `prefect` commands use the server of this directory, as shell commands.

    They hold the server's authentication string. Example: eval "$(lema ui env)" && prefect flow-run ls
    """
    import shlex

    port = running_port(HOME)
    if port is None:
        raise ConfigError("no Prefect server runs here; `lema ui start` starts it")
    for name, value in client_settings(HOME, port).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


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
    api = api_url(port)
    console.print(api if quiet else f"running: {login_url(api, 'dashboard')} (API {api})")

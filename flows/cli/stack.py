"""``lema up``, ``down``, ``deploy``, ``serve``, ``worker``, ``ui``: the local stack, and deployments on any server."""

from typing import Annotated

import typer

from flows.cli.console import console
from flows.local_stack.server import HOME, api_url, client_settings, ensure_server, login_url, running_port, stop
from lema_core.errors import ConfigError
from lema_core.system import stopping

Notify = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE/NAME",
        help="A notification block, as slack-webhook/team, for runs that failed, crashed or spent their budget.",
    ),
]


def up(
    notify: Notify = None,
    sqlite: Annotated[bool, typer.Option("--sqlite", help="Do without PostgreSQL: one machine, few runs.")] = False,
) -> None:
    """Start the local stack: PostgreSQL, the Prefect server on it, the deployments and a worker that runs them.

    What runs already is left alone, so the same command starts what is missing, as after a reboot. Everything listens
    on loopback only and lies under .lema; `lema down` stops it and keeps the data. The ledger moves to PostgreSQL too.
    """
    from flows.local_stack import stack

    for part, where in stack.up(notify, sqlite=sqlite):
        console.print(f"{part:<12} {where}")


def down() -> None:
    """Stop the worker, the server and PostgreSQL. All data stays; interrupted runs go on after `lema up`."""
    from flows.local_stack import stack

    for part, ran in stack.down():
        console.print(f"{part:<12} {'stopped' if ran else 'was not running'}")


def deploy(notify: Notify = None) -> None:
    """Register the deployments of deployments/prefect.yaml and the automations on the Prefect server.

    The server is the one PREFECT_API_URL names, else the one of this folder, which is started. Runs need a worker:
    `lema up` starts one here; `lema worker` is one in any terminal of this folder.
    """
    from flows.local_stack.server import ensure_server, login_url

    api = ensure_server()
    from flows import registration

    for name in registration.register_deployments():
        console.print(f"deployment   {name}")
    for name in stopping.run(registration.register_automations(notify)):
        console.print(f"automation   {name}")
    console.print(f"Prefect UI: {login_url(api, 'deployments')}")
    console.print("Runs need a worker: lema worker")


def serve(notify: Notify = None) -> None:
    """Register the deployments and run what is started or due, in this process, until Ctrl-C: no worker is needed."""
    from flows.local_stack.server import ensure_server, login_url

    api = ensure_server()
    from flows import registration
    from flows.local_stack import worker

    stopping.run(registration.register_automations(notify))
    served = registration.deployments_to_serve()
    console.print(f"Serving {', '.join(deployment.name for deployment in served)}")
    console.print(f"Prefect UI: {login_url(api, 'deployments')}")
    stopping.run(worker.serve(served))


def work(
    pool: Annotated[str, typer.Option(help="The work pool, of the type process.")] = "lema",
) -> None:
    """Run what is started or due in a work pool, each run in a process of its own, until Ctrl-C or SIGTERM.

    Unlike `prefect worker start`, which kills its runs when it is stopped, it lets each settle what is paid and in
    flight, for LEMA_GRACE_S seconds (10 by default) at most.
    """
    from flows.local_stack.server import ensure_server

    api = ensure_server()
    from flows.local_stack import worker

    console.print(f"Working for the pool {pool} of {api}")
    stopping.run(worker.work(pool))


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

"""``lema up``, ``down``, ``deploy``, ``serve``, ``worker``: the local stack, and deployments on any Prefect server."""

from typing import Annotated

import typer

from flows import stopping
from flows.cli.console import console

Notify = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE/NAME",
        help="A notification block, as slack-webhook/team, told of runs that failed, crashed or spent their budget.",
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
    from flows.registration import automations, deploying

    for name in deploying.register():
        console.print(f"deployment   {name}")
    for name in stopping.run(automations.register(notify)):
        console.print(f"automation   {name}")
    console.print(f"Prefect UI: {login_url(api, 'deployments')}")
    console.print("Runs need a worker: lema worker")


def serve(notify: Notify = None) -> None:
    """Register the deployments and run what is started or due, in this process, until Ctrl-C: no worker is needed."""
    from flows.local_stack.server import ensure_server, login_url

    api = ensure_server()
    from flows.local_stack import worker
    from flows.registration import automations, deploying

    stopping.run(automations.register(notify))
    served = deploying.served()
    console.print(f"Serving {', '.join(one.name for one in served)}")
    console.print(f"Prefect UI: {login_url(api, 'deployments')}")
    stopping.run(worker.serve(served))


def work(
    pool: Annotated[str, typer.Option(help="The work pool, of the type process.")] = "lema",
) -> None:
    """Run what is started or due in a work pool, each run in a process of its own, until Ctrl-C or SIGTERM.

    Unlike `prefect worker start`, which kills its runs when it is stopped, it lets each settle what is paid and in
    flight, for LEMA_GRACE_S seconds (20 by default) at most.
    """
    from flows.local_stack.server import ensure_server

    api = ensure_server()
    from flows.local_stack import worker

    console.print(f"Working for the pool {pool} of {api}")
    stopping.run(worker.work(pool))

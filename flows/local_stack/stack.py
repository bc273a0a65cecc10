"""The local stack: PostgreSQL, the Prefect server on it, deployments, automations and a worker, all on loopback.

Everything is stored under ``.lema`` of the present folder. Running parts stay: ``up`` after a reboot starts the rest.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from flows.local_stack import server
from flows.local_stack.background import Background
from flows.local_stack.postgres import Postgres
from lema_core.artifacts.files import atomic_local
from lema_core.errors import LemaError
from lema_core.system import stopping
from lema_core.system.processes import module_environment

FOLDER = Path(".lema")
POOL = "lema"
WORKER = Background(FOLDER / "prefect", "worker")


def up(notify: str | None = None, *, sqlite: bool = False) -> Iterator[tuple[str, str]]:
    """Start what does not run; yield each part with where it is.

    Raises:
        LemaError: a part cannot be started; the message names its log.
    """
    if not sqlite:
        yield "PostgreSQL", _database()
    api = server.ensure_server()
    yield "Prefect", server.login_url(api, "dashboard")
    # Prefect reads its settings when it is imported: only now.
    from flows import registration

    yield "deployments", ", ".join(registration.register_deployments())
    yield "automations", ", ".join(stopping.run(registration.register_automations(notify)))
    yield "worker", _worker()


def down() -> Iterator[tuple[str, bool]]:
    """Stop the worker, the server and PostgreSQL; yield each part and whether it ran. All data stays."""
    yield "worker", WORKER.stop()
    yield "Prefect", server.stop(server.HOME)
    yield "PostgreSQL", Postgres(FOLDER / "postgres").stop()


def examine() -> Iterator[tuple[str, str, str, str]]:
    """Yield the stack's lines of `lema doctor`: part, state (ok, absent, missing), what was seen, the remedy."""
    database = Postgres(FOLDER / "postgres")
    if not database.made:
        yield "PostgreSQL", "absent", "none of ours; the ledger is a file", "nothing to do: `lema up` makes one"
    elif database.running():
        yield "PostgreSQL", "ok", database.url("ledger"), ""
    else:
        yield "PostgreSQL", "missing", f"the ledger is in {database.folder}, which does not run", "lema up"
    if WORKER.facts():
        yield "worker", "ok", f"runs, log in {WORKER.log}", ""
    else:
        yield "worker", "absent", "none of ours; deployments wait for one", "nothing to do: `lema up` starts one"


def _database() -> str:
    database = Postgres(FOLDER / "postgres")
    fresh = not database.made
    if fresh and server.running_port(server.HOME):
        raise LemaError(
            "a Prefect server on SQLite runs here; stop it first: lema ui stop (its history stays in .lema/prefect)"
        )
    database.start()
    _move_ledger(database.url("ledger"))
    return database.url("prefect")


def _move_ledger(url: str) -> None:
    """Move every run under .lema to PostgreSQL's ledger, with the file's completions, which are paid."""
    named, file = FOLDER / "ledger.url", FOLDER / "ledger.sqlite"
    if named.exists():
        return
    if file.exists():
        from lema_core.llm.ledger.claims import Claims
        from lema_core.llm.ledger.files import move_ledger
        from lema_core.llm.ledger.store import LedgerStore

        with closing(LedgerStore(str(file))) as old:
            if working := Claims(old).alive():
                raise LemaError(
                    f"{working} processes are working with {file}: what they pay from now on would stay behind there. "
                    "Wait for their end, or stop them; then run this again"
                )
            with closing(LedgerStore(url)) as new:
                move_ledger(old, new)
    with atomic_local(named) as local:
        local.write_text(f"{url}\n", encoding="utf-8")


def _worker() -> str:
    # A number that changes with the server's address and authentication string, and shows neither.
    used = [os.environ.get(name, "") for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")]
    serves = int.from_bytes(hashlib.sha256("\0".join(used).encode()).digest()[:6], "big")
    facts = WORKER.facts()
    if facts and facts.get("access") != serves:
        # Its server has another address or authentication string now, and would refuse it.
        WORKER.stop()
        facts = None
    if facts is None:
        command = [sys.executable, "-m", "flows.cli", "worker", "--pool", POOL]
        # A worker polls for due runs every ten seconds by default: too slow for a person who pressed a button.
        WORKER.start(command, module_environment(os.environ) | {"PREFECT_WORKER_QUERY_SECONDS": "3"}, access=serves)
    return f"log in {WORKER.log}"

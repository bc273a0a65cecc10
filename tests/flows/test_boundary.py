"""Prefect and the terminal get our own errors only: no key in a log, a state or on the screen."""

import asyncio
import importlib
import pkgutil
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import prefect
import pytest
from hostile_endpoint import SPELLINGS, HostileEndpoint
from hostile_trials import _holds_key
from prefect.exceptions import MissingContextError, Pause, TerminationSignal
from support import PATIENCE_S, ask, environment

import flows
import tasks
from lema_core.errors import BudgetExceededError, LemaError, UnexpectedError
from lema_core.system.redaction import get_redactor
from tasks.boundary import OWN_ERRORS, own_errors

KEY = "sk-proj-REALKEY-never+echoed/0987654321&x"


def test_every_task_and_every_flow_raises_our_errors():
    found = {}
    for package in (tasks, flows):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            if module.name == "tasks.dask_cluster":
                pytest.importorskip("distributed")
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, prefect.Task | prefect.Flow):
                    found[f"{module.name}.{name}"] = getattr(value.fn, OWN_ERRORS, False)
    assert len(found) > 25
    assert [name for name, ours in found.items() if not ours] == []


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_foreign_exception_becomes_ours_without_key_cause_or_values(spelling):
    get_redactor(KEY)

    @own_errors
    async def broken(values: str) -> None:
        raise RuntimeError(f"with {values}") from ValueError(values)

    with pytest.raises(UnexpectedError, match="RuntimeError: with") as found:
        asyncio.run(broken(SPELLINGS[spelling](KEY)))
    error = found.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert not _holds_key(repr(error) + "".join(traceback.format_exception(error)), KEY)
    assert "test_boundary.py" in str(error)


@pytest.mark.parametrize(
    "error", [BudgetExceededError("x"), MissingContextError("x"), Pause(state=None), TerminationSignal(15),
              asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_our_errors_signals_and_prefects_own_pass(error):
    @own_errors
    def broken() -> None:
        raise error

    with pytest.raises(type(error)) as found:
        broken()
    assert found.value is error


def test_our_own_error_loses_its_foreign_cause():
    @own_errors
    def broken() -> None:
        raise LemaError("ours") from ValueError(KEY)

    with pytest.raises(LemaError, match="ours") as found:
        broken()
    assert KEY not in "".join(traceback.format_exception(found.value))


# The preflight is the first to ask: what comes after it is reached by what only a reply calls.
PLACES = {
    "preflight": "aiohttp.ClientSession._request",
    "client": "lema_core.llm.client.parse_response",
    "batch upload": "lema_core.llm.batch.api.request_line",
    "batch reply": "lema_core.llm.batch.api.id_in",
    "reader": "lema_core.questions.sources._decoded",
    "opened source": "fsspec.core.OpenFile.open",
    "parquet": "pyarrow.parquet.ParquetFile",
    "ledger": "lema_core.llm.ledger.ledger.Ledger.look_up_and_claim",
    "store": "lema_core.artifacts.store.Store.part",
    "root": "fsspec.core.url_to_fs",
    "task": "lema_core.stages.verdicts.judge_path",
}
OWN_FILE = [
    "questions.task=numeric",
    "questions.path=known.jsonl",
    'questions.mapping={question="text", gold="gold", rationale="rationale"}',
    "questions.seed=0",
]
SETTINGS = {
    "batch upload": ["endpoints.student.transport=batch"],
    "batch reply": ["endpoints.student.transport=batch"],
    "reader": OWN_FILE,
    "opened source": OWN_FILE,
}
PATCH = """
import sys
from unittest.mock import patch
def broken(*_args, **_options):
    import os
    open(os.environ["REACHED"], "w").close()
    key = os.environ["BOUNDARY_KEY"]
    class Foreign(Exception):
        def __repr__(self): return f"Foreign({key!r})"
    raise Foreign(f"headers: Bearer {key}", {"Authorization": f"Bearer {key}"})
place = sys.argv.pop(1)
patch(place, broken).start()
from flows.cli import app
app()
"""


def _everywhere(tmp_path: Path, base: Path) -> list[str]:
    """Return what a run wrote, and the Prefect server's database."""
    files = [*tmp_path.rglob("*"), *base.rglob("*.db*")]
    return [path.read_bytes().decode("latin-1") for path in files if path.is_file()]


def _leaks(prefect_api: str, done: subprocess.CompletedProcess[str], tmp_path: Path, base: Path, key: str) -> list[int]:
    kept = [ask(prefect_api, f"{what}/filter", {}) for what in ("logs", "flow_runs", "task_runs")]
    texts = [done.stdout, done.stderr, *map(str, kept), *_everywhere(tmp_path, base)]
    return [number for number, text in enumerate(texts) if _holds_key(text, key)]


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_whatever_a_run_meets_the_key_is_nowhere(prefect_api, run_file, tmp_path, tmp_path_factory, place):
    key = f"sk-planted-{place.replace(' ', '-')}-0123456789abcdef+/="
    # As `lema run` sets it before it imports Prefect, which the patch does earlier.
    quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL"}
    given = environment(prefect_api, tmp_path) | quiet | {"BOUNDARY_KEY": key, "REACHED": str(tmp_path / "reached")}
    settings = ["endpoints.student.api_key_env=BOUNDARY_KEY", "questions.limit=6", "test_questions.limit=2"]
    settings += SETTINGS.get(place, [])
    words = ["run", str(run_file), "--root", "out", *(word for one in settings for word in ("--set", one))]
    done = subprocess.run(
        [sys.executable, "-c", PATCH, PLACES[place], *words], cwd=tmp_path, env=given, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert (tmp_path / "reached").exists(), done.stderr
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "error:" in done.stderr
    assert _leaks(prefect_api, done, tmp_path, tmp_path_factory.getbasetemp(), key) == []


@pytest.fixture
def hostile():
    """Serve the hostile endpoint from a thread."""
    endpoint, loop, ready = HostileEndpoint(), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        await endpoint.start()
        ready.set()

    loop.create_task(serve())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S)
    yield endpoint
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["framing_chunk_size", "echo_in_status_line"])
def test_one_malformed_reply_writes_no_key_into_prefect(
    prefect_api, lema, run_file, hostile, tmp_path, tmp_path_factory, monkeypatch, name
):
    key = f"sk-planted-{name.replace('_', '-')}-0123456789"
    monkeypatch.setenv("BOUNDARY_KEY", key)
    settings = [f'endpoints.student.base_url="{hostile.url(name)}"', "endpoints.student.api_key_env=BOUNDARY_KEY"]
    words = [word for one in (*settings, "questions.limit=4", "test_questions.limit=2") for word in ("--set", one)]
    done = lema("run", run_file, "--root", "out", *words, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    assert hostile.posts[name].total() > 0
    assert _leaks(prefect_api, done, tmp_path, tmp_path_factory.getbasetemp(), key) == []

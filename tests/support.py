"""What tests of the whole thing share: a run file, the command line, and what a root holds."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from lema_core.artifacts import ArtifactRef, Identity, Shard, Store
from lema_core.run.spec import RunSpec

PATIENCE_S = 180

RUN = """
name = "flow_test"
[questions]
task = "arithmetic"
limit = 40
seed = 3
[test_questions]
task = "arithmetic"
split = "test"
limit = 10
seed = 3
[[students]]
endpoint = "student"
samples = 3
max_tokens = 200
[corrections]
endpoint = "reference"
[mixture]
arms = ["cot", "lema"]
[runtime]
shard_requests = 30
[endpoints.student]
model = "simulated-student"
base_url = "{url}"
concurrency = 16
[endpoints.reference]
model = "reference-corrector"
base_url = "{url}"
concurrency = 16
"""


def lema_command(*words: object) -> list[str]:
    """Return the command line of ``lema`` with this interpreter; as the console script, without the working folder."""
    return [sys.executable, "-P", "-c", "from flows.cli import app; app()", *map(str, words)]


FIXED = ("PYTHON", "LD_", "COLUMNS", "HF_")
"""What a process reads when it starts, or when it imports `rich` or `huggingface_hub`: a fork cannot change it."""


class _ForkServer:
    """The client of ``fork_server.py``: it runs one command at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._home = tempfile.TemporaryDirectory(prefix="lema-fork-server-")
        self._env = os.environ | {"PREFECT_HOME": self._home.name, "COLUMNS": "200"}
        source = Path(__file__).with_name("fork_server.py").read_text()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", source], cwd=self._home.name, env=self._env, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._read() == "ready"

    def suits(self, env: Mapping[str, str]) -> bool:
        """Return whether the process lives and a fork of it can have this environment."""
        fixed = [{key: value for key, value in one.items() if key.startswith(FIXED)} for one in (env, self._env)]
        return fixed[0] == fixed[1] and self._process.poll() is None

    def run(self, words: list[str], cwd: Path, env: Mapping[str, str], timeout: float):
        with tempfile.TemporaryDirectory(prefix="lema-command-") as folder:
            files = {name: Path(folder) / name for name in ("stdout", "stderr")}
            for file in files.values():
                file.touch()
            places = {name: str(file) for name, file in files.items()}
            self._process.stdin.write(json.dumps(places | {"words": words, "cwd": str(cwd), "env": dict(env)}) + "\n")
            self._process.stdin.flush()
            child, late = int(self._read()), []
            timer = threading.Timer(timeout, lambda: (late.append(child), os.kill(child, signal.SIGKILL)))
            timer.start()
            try:
                status = int(self._read())
            except BaseException:  # a test's own timeout: the next command starts a new server
                self._process.kill()
                os.kill(child, signal.SIGKILL)
                raise
            finally:
                timer.cancel()
            said = {name: file.read_text(errors="replace") for name, file in files.items()}
        if late:
            raise subprocess.TimeoutExpired(words, timeout, said["stdout"], said["stderr"])
        return subprocess.CompletedProcess(words, status, **said)

    def _read(self) -> str:
        line = self._process.stdout.readline()
        assert line, f"the fork server ended with {self._process.wait()}"
        return line.strip()


_fork_server: list[_ForkServer] = []


def run_lema(
    *words: object, cwd: Path, env: Mapping[str, str], timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run ``lema`` to its end: a fork of a process that imported it once, which saves the imports' CPU seconds.

    Tests that signal or kill a command, or that are about its start, start ``lema_command``.
    """
    if not (_fork_server and _fork_server[0].suits(os.environ | {"COLUMNS": "200"})):
        _fork_server[:] = [_ForkServer()]
    (forks,) = _fork_server
    given = [str(word) for word in words]
    if forks.suits(env) and forks.lock.acquire(blocking=False):
        try:
            return forks.run(given, cwd, env, timeout)
        finally:
            forks.lock.release()
    return subprocess.run(
        lema_command(*given), cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


AUTH: dict[str, str] = {}
"""The authentication strings of the Prefect servers that tests have started, by their API addresses."""


def start_server(home: Path) -> str:
    """Start a Prefect server and note its authentication string; return its API address."""
    from flows.local_stack import server

    api = server.api_url(server.start(home))
    AUTH[api] = server.auth_string(home)
    return api


def environment(api: str, home: Path) -> dict[str, str]:
    """Return an environment with our server, and a Prefect home that is nobody's."""
    access = {"PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": AUTH.get(api, "")}
    return os.environ | access | {"PREFECT_HOME": str(home / "prefect"), "COLUMNS": "200"}


def parts(root: Path) -> dict[str, bytes]:
    """Return every Parquet part under a root by its place."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.parquet"))}


def kept(store: Store, stage: str, rows: list, record: type, name: str = "", **counts: int) -> ArtifactRef:
    """Put rows into the store as an artifact of a stage; a Rejection among them is a rejected row."""
    identity = Identity(stage, {"name": name})
    ref, shard = ArtifactRef(stage, identity.fingerprint), Shard(0, 0, len(rows))
    with store.part(ref, shard, record) as part:
        part.rows_in = len(rows)
        part.counts.update(counts)
        for row in rows:
            part.add(row)
    store.publish(identity, [part.summary], seconds=1.0)
    return ref


def of_stage(store: Store, stage: str) -> list[ArtifactRef]:
    """Return a stage's artifacts, the oldest first."""
    found = sorted(store.manifests(), key=lambda manifest: manifest.created)
    return [ArtifactRef(m.stage, m.fingerprint) for m in found if m.stage == stage]


def chromium() -> str:
    """Return the browser's program; CI has one, elsewhere the tests that need it skip."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None and os.environ.get("CI") != "true":
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    assert path, "CI runs the browser tests: install chromium"
    return path


def until(what: str, moment: Callable[[], object], alive: subprocess.Popen | None = None, every_s: float = 0.2):
    """Wait for something to become true, as long as a process that should bring it about lives, and return it."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if seen := moment():
            return seen
        assert alive is None or alive.poll() is None, f"{what}: the process ended before: {_last_words(alive)}"
        time.sleep(every_s)
    raise AssertionError(f"{what}: not within {PATIENCE_S} s")


def _last_words(process: subprocess.Popen) -> str:
    said = [text for text in process.communicate() if text]
    return "\n".join([f"exit code {process.returncode}", *map(str, said)])


_SHIFT = """
import builtins, io, os, time

def _shift(step=float({step!r}), moment={moment!r}):
    clock, opened = time.time, builtins.open
    def moved():
        return step if not moment or os.path.exists(moment) else 0.0
    time.time = lambda: clock() + moved()
    time.time_ns = lambda: int(time.time() * 1e9)
    def open(file, *args, **options):
        stream = opened(file, *args, **options)
        if str(file) != "/proc/stat":
            return stream
        text = stream.read()
        binary = isinstance(text, bytes)
        lines = (text.decode() if binary else text).splitlines()
        lines = [f"btime {{int(line.split()[1]) + round(moved())}}" if line[:5] == "btime" else line for line in lines]
        whole = chr(10).join(lines) + chr(10)
        return io.BytesIO(whole.encode()) if binary else io.StringIO(whole)
    builtins.open = open

_shift()
"""


def shifted(folder: Path, step: float, moment: Path | None = None) -> dict[str, str]:
    """Return an environment in whose processes the wall clock is set by a step, once a file exists if one is named.

    ``time.time`` and the boot time in /proc/stat move together, as they do when a clock is set; CLOCK_MONOTONIC and the
    start ticks stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SHIFT.format(step=step, moment=str(moment or "")))
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(":")}


def hide_our_packages(folder: Path) -> None:
    """Make packages named like ours in a folder; importing one fails."""
    for name in ("lema_core", "tasks", "flows"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('a package of the working directory')")


def killed_at(what: str, moment: Callable[[], object], command: list[str], **started: Any) -> None:
    """Start a command, wait for a moment of its work, and kill -9 it with all that it started."""
    with tempfile.TemporaryFile("w+") as out:
        client = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, **started)
        try:
            until(what, moment, alive=client, every_s=0.01)
        except AssertionError as error:
            out.seek(0)
            error.add_note(out.read())
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(client.pid, signal.SIGKILL)
            client.wait()


def ask(api: str, path: str, body: dict | None = None, method: str = "POST"):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {b64encode(AUTH[api].encode()).decode()}"}
    request = urllib.request.Request(f"{api}/{path}", data, headers, method=method)
    text = until(f"an answer to {path}", lambda: _answered(request))
    return json.loads(text) if text.strip() else None


def _answered(request: urllib.request.Request) -> bytes:
    """Return the answer; empty, to be asked again, where the server's database was busy (503), as its clients do."""
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.read() or b" "
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return b""
        raise


def home_of(api: str) -> Path:
    """Return the folder that a Prefect server works in."""
    return Path(ask(api, "admin/settings", method="GET")["home"])


def runs(api: str, name: str) -> list[dict]:
    """Return the flow runs whose name holds this, the newest first."""
    found = {"flow_runs": {"name": {"like_": name}}, "sort": "START_TIME_DESC"}
    return ask(api, "flow_runs/filter", found)


def start_run(api: str, deployment: str, **parameters: object) -> dict:
    found = ask(api, f"deployments/name/{deployment}", method="GET")
    return ask(api, f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})


def state_of(api: str, run: dict) -> dict:
    return ask(api, f"flow_runs/{run['id']}", method="GET")["state"]


def ended(api: str, run: dict) -> dict:
    return until(
        run["name"], lambda: (s := state_of(api, run))["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} and s
    )


def kill_all(pid: int) -> None:
    """Kill -9 a process and what it started; its children may end by themselves meanwhile."""
    parent = psutil.Process(pid)
    for one in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            one.kill()


def _of_task(folder: Path, task: str) -> Path:
    """Write questions of MATH or CommonsenseQA in the format of their files."""
    file = folder / f"{task}.jsonl"
    if not file.is_file():
        math = [{"problem": f"Find {i} + 1.", "solution": f"It is $\\boxed{{{i + 1}}}$."} for i in range(225)]
        choices = {"label": ["A", "B"], "text": ["sea", "sky"]}
        csqa = [{"question": f"Where is whale {i}?", "choices": choices, "answerKey": "A"} for i in range(225)]
        file.write_text("".join(json.dumps(row) + "\n" for row in (math if task == "math" else csqa)))
    return file


def local_sources(run: RunSpec, questions: Path) -> list[str]:
    """Return settings that give a run file local questions in the place of published ones.

    In GSM8K's format, but for MATH and CommonsenseQA.
    """
    sets = run.test_questions
    one = {"questions": run.questions, "test_questions": None if isinstance(sets, tuple) else sets}
    tasks = {name: spec.task for name, spec in one.items() if spec and spec.task != "arithmetic"}
    files = {task: _of_task(questions.parent, task) for task in ("math", "csqa")}
    settings = [f"{name}.path={files.get(task, questions)}" for name, task in tasks.items()]
    if isinstance(sets, tuple):
        # Of one format, so that no set's own is needed: each has a few of the questions.
        asked = ", ".join(
            f'{{task = "{spec.task}", path = "{questions}", limit = {5 + place}, '
            'mapping = {question = "question", gold = "answer", rationale = "answer"}}'
            for place, spec in enumerate(sets)
        )
        settings.append(f"test_questions=[{asked}]")
    return settings

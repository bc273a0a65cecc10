"""`lema complete` against each behaviour of the hostile endpoint: what must hold whatever a server does.

`benchmarks/hostile.py` prints the table. Each trial is a process of its own, forked from this one so that it costs no
start-up: its exit status, its screen, its files and its peak of memory are what a user would have. Three settings are
shortened, because by design they wait: an attempt to 5 s (of 300), a request to 12 s (of an hour) and an outage to 4 s
(of 120).
"""

import asyncio
import atexit
import base64
import html
import importlib
import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hostile_endpoint import BEHAVIOURS, Behaviour, HostileEndpoint, make_bombs

from lema_core.system.processes import die_with_parent

KEY = "sk-proj-REALKEY-never+echoed/0987654321&x"
REQUESTS = 3
ATTEMPT_S, REQUEST_S, OUTAGE_S = 5.0, 12.0, 4.0
MOST_SECONDS = 40.0
"""Of a trial with the shortened settings, on a busy machine; two minutes stand for the real ones."""
MOST_MEGABYTES = 300.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one behaviour. ``broken`` names the goals that did not hold."""

    name: str
    family: str
    broken: list[str]
    status: int
    seconds: float
    megabytes: float
    posts: dict[str, int]
    screen: str


@dataclass(slots=True)
class _Running:
    behaviour: Behaviour
    folder: Path
    began: float = field(default_factory=time.monotonic)


def trials(names: Iterable[str], jobs: int) -> Iterator[Trial]:
    """Run the behaviours, some at a time, and yield what came of each."""
    port, server = _serve()
    _prepare()
    waiting, running = list(names)[::-1], dict[int, _Running]()
    ended: list[tuple[_Running, int, Any, float]] = []
    with tempfile.TemporaryDirectory(prefix="lema-hostile-") as root:
        try:
            _warm_up(Path(root) / "warm", port)
            while waiting or running:
                while waiting and len(running) < jobs:
                    one = _Running(BEHAVIOURS[waiting.pop()], Path(root))
                    one.folder = Path(root) / one.behaviour.name
                    running[_fork(one, port)] = one
                pid, status, used = os.wait4(-1, os.WNOHANG)
                if pid:
                    one = running.pop(pid)
                    ended.append((one, os.waitstatus_to_exitcode(status), used, time.monotonic() - one.began))
                else:
                    time.sleep(0.02)
                    for late in [pid for pid, one in running.items() if time.monotonic() - one.began > MOST_SECONDS]:
                        os.kill(late, 9)
            posts = _posts(port)
        finally:
            os.kill(server, 9)
            os.waitpid(server, 0)
        for one, status, used, seconds in ended:
            yield _judged(one, status, used.ru_maxrss / 1024, seconds, posts.get(one.behaviour.name, {}))


def _posts(port: int) -> dict[str, dict[str, int]]:
    """Return how often each prompt of each behaviour was posted since the last time."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stats") as answer:
        found: dict[str, dict[str, int]] = json.loads(answer.read())
    return found


def _serve() -> tuple[int, int]:
    """Start the endpoint in a process of its own; return its port and its process id."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        return int(os.read(reading, 16)), pid

    # Else it would outlive a parent that fails, and hold its output open.
    die_with_parent()
    make_bombs()

    async def serve() -> None:
        endpoint = HostileEndpoint()
        await endpoint.start()
        os.write(writing, str(endpoint.port).encode())
        await asyncio.Event().wait()

    asyncio.run(serve())
    os._exit(0)


def _prepare() -> None:
    """Import everything once, and shorten what waits by design."""
    from lema_core.llm.engine import Engine
    from lema_core.llm.settings import EngineSettings

    module: Any = importlib.import_module("flows.cli.complete")
    spec = module._spec
    module._spec = lambda **fields: spec(**fields).model_copy(update={"request_timeout_s": REQUEST_S})
    Engine.open = partial(Engine.open, settings=EngineSettings(unreachable_s=OUTAGE_S))  # type: ignore[method-assign]
    os.environ["HOSTILE_KEY"] = KEY
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ.pop(name, None)
        os.environ.pop(name.lower(), None)


def _warm_up(folder: Path, port: int) -> None:
    """Import what a trial imports when it runs: once here, and not in each fork."""
    os.waitpid(_fork(_Running(BEHAVIOURS["plain"], folder), port), 0)
    _posts(port)
    for name in (folder / "modules.txt").read_text().split():
        with suppress(Exception):
            importlib.import_module(name)


def _fork(one: _Running, port: int) -> int:
    one.folder.mkdir()
    requests = one.folder / "requests.jsonl"
    lines = [
        {"id": str(n), "messages": [{"role": "user", "content": f"{n}?"}], "params": {"max_tokens": 50}}
        for n in range(REQUESTS)
    ]
    requests.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    # A command ends its process itself, after its exit functions: those of this one would remove the trials' folder.
    atexit._clear()
    atexit.register(_write_modules, one.folder / "modules.txt")
    try:
        screen = os.open(one.folder / "screen.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(screen, 1)
        os.dup2(screen, 2)
        from flows.cli import app

        url = f"http://127.0.0.1:{port}/{one.behaviour.name}/v1"
        words = ["complete", str(requests), "--base-url", url, "--model", "hostile", "--out", str(one.folder / "out")]
        options = ["--concurrency", "4", "--attempt-timeout", str(ATTEMPT_S), "--api-key-env", "HOSTILE_KEY"]
        app([*words, *options])
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException:  # noqa: BLE001 - a user would see it
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        _write_modules(one.folder / "modules.txt")
        os._exit(status)


def _write_modules(file: Path) -> None:
    file.write_text("\n".join(name for name in sys.modules if "__main__" not in name))


def _judged(one: _Running, status: int, megabytes: float, seconds: float, posts: dict[str, int]) -> Trial:
    behaviour = one.behaviour
    screen = (one.folder / "screen.txt").read_text("utf-8", "replace")
    answered = _answers(one.folder / "out")
    most = max(posts.values(), default=0)
    goals = {
        "no traceback": "Traceback" not in screen,
        "no key in a file or on the screen": not any(_holds_key(data) for data in _written(one.folder)),
        "no command to the terminal": not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", screen),
        f"at most {behaviour.tries} tries": most <= behaviour.tries,
        "memory": megabytes < MOST_MEGABYTES,
        "an end": status != -9,
        "answers": behaviour.outcome != "answered" or answered == REQUESTS,
        "no failure is an answer": behaviour.outcome != "nothing" or answered == 0,
        "exit status": bool(status) == (answered == 0),
    }
    broken = [goal for goal, held in goals.items() if not held]
    shutil.rmtree(one.folder)
    return Trial(behaviour.name, behaviour.family, broken, status, seconds, megabytes, posts, screen[-2000:])


def _answers(out: Path) -> int:
    ledger = out / "ledger.sqlite"
    if not ledger.is_file():
        return 0
    with sqlite3.connect(ledger) as database:
        return int(database.execute("SELECT count(*) FROM completions").fetchone()[0])


def _written(folder: Path) -> Iterator[str]:
    """Yield what a trial wrote: its screen, and each file as it is and as it is read."""
    import pyarrow.parquet as pq

    for path in folder.rglob("*"):
        if path.is_file():
            yield path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            with suppress(OSError, ValueError):
                yield json.dumps(pq.read_table(path).to_pylist(), default=str, ensure_ascii=False)
        if path.name == "ledger.sqlite":
            yield from _rows(path)


def _rows(ledger: Path) -> Iterator[str]:
    with sqlite3.connect(ledger) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in database.execute(f"SELECT * FROM {table}"):  # noqa: S608 - names from the database itself
                for value in row:
                    yield _text(value)


def _text(value: object) -> str:
    if not isinstance(value, bytes):
        return str(value)
    with suppress(zlib.error):
        value = zlib.decompress(value)
    return value.decode("utf-8", "replace")


def _holds_key(text: str, key: str = KEY) -> bool:
    """Say whether a text holds the key in any spelling. Written without a look at `lema_core.system.redaction`."""
    unescaped = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    readings = [text, unescaped, html.unescape(text), urllib.parse.unquote(urllib.parse.unquote(text))]
    wanted = [key, key.encode().hex()]
    for offset in range(3):
        coded = base64.b64encode(b"\0" * offset + key.encode()).decode().rstrip("=")
        # The first and the last characters depend on what stands beside the key.
        wanted += [coded[4:-2], base64.urlsafe_b64encode(b"\0" * offset + key.encode()).decode().rstrip("=")[4:-2]]
    plain = [re.sub(r"\\[rn]|\s|\\", "", reading).lower() for reading in readings]
    return any(re.sub(r"\\", "", word).lower() in reading for word in wanted for reading in plain)


def as_table(found: list[Trial]) -> str:
    """Return held and failed by family as a Markdown table."""
    lines = ["| family | tried | held | failed |", "|---|---|---|---|"]
    for family in dict.fromkeys(trial.family for trial in found):
        mine = [trial for trial in found if trial.family == family]
        failed = [trial.name for trial in mine if trial.broken]
        shown = ", ".join(failed[:6]) + (", ..." if len(failed) > 6 else "")
        lines.append(
            f"| {family} | {len(mine)} | {len(mine) - len(failed)} | {len(failed)}{f' ({shown})' * bool(failed)} |"
        )
    held = sum(not trial.broken for trial in found)
    lines.append(f"| all | {len(found)} | {held} | {len(found) - held} |")
    return "\n".join(lines)

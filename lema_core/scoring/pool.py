"""Runs a task's scorer in guarded processes: what a scorer does costs its text a verdict at most, never the run.

A worker (``lema_core.scoring.worker_main``) is a process with limits of memory and files. It can neither start programs
nor write outside its folder. A scorer that is a plain function has a worker for one text at a time. One that is a
coroutine function, waiting for its judge most of the time, scores many texts at once in one worker. Where that worker
hangs or ends, or a text fails in it, the text is scored again in a worker of its own; where that worker had scored
others before, once more in a new one. One bad text costs no other one.

The parent does what a worker may not: it asks the judge through the request engine, and runs programs in the sandbox.
"""

import asyncio
import base64
import contextlib
import inspect
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Self, get_args
from weakref import WeakKeyDictionary

from lema_core.errors import ConfigError
from lema_core.llm.requests import Completion, CompletionRequest, Outcome
from lema_core.questions.tasks.task import Task
from lema_core.records import ReasoningPath
from lema_core.scoring.scores import LONGEST_REASON, SCORER_REASONS, Judge, ScoreVerdict
from lema_core.system.processes import module_environment, program_environment
from lema_core.system.untrusted import ProgramLimits, run_untrusted

TEXTS_AT_ONCE = 128
"""Of a coroutine scorer, in one worker."""
START_SECONDS = 120.0
CANCEL_SECONDS = 2.0
"""How long a worker may take to cancel one text; a longer silence means that its event loop is blocked."""
SHARED_FAULTS = frozenset({"scorer_raised", "scorer_timeout", "scorer_memory"})
"""What another text of the same process may be the cause of: its memory, its open files, its computing."""
LONGEST_LINE = 32 << 20
"""Bytes of a worker's message."""

AskJudge = Callable[[CompletionRequest], Awaitable[Outcome]]
"""Sends one request to the judge's endpoint, through the engine."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A scorer's verdict on one text, or why there is none."""

    verdict: str
    """right, wrong or unknown."""
    answer: str | None
    decided_by: str
    """``scorer``, or a reason code of ``SCORER_REASONS``."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextToScore:
    """One text with what its scorer is given."""

    question_id: str
    question: str
    gold: str
    text: str
    candidates: tuple[str, ...] | None = None

    @classmethod
    def of(cls, path: ReasoningPath, text: str) -> Self:
        """Return a text that answers the question of a path."""
        return cls(
            question_id=path.question_id, question=path.question, gold=path.gold, text=text, candidates=path.candidates
        )


def failed(code: str, detail: str = "") -> Scored:
    """Return a verdict that a scorer did not give."""
    return Scored("unknown", None, code, f"{SCORER_REASONS[code]}{': ' if detail else ''}{detail}"[:LONGEST_REASON])


class _WorkerLostError(Exception):
    """A worker ended or hangs, perhaps because of another text. ``scored`` is the verdict if it was this one."""

    def __init__(self, scored: Scored) -> None:
        super().__init__(scored)
        self.scored = scored


@dataclass(slots=True, eq=False)
class _Row:
    """A text that a worker scores now, with its clock: it stops while the parent does something for the scorer."""

    number: int
    judge: Judge | None
    ask: AskJudge | None
    result: "asyncio.Future[Scored]"
    resumed: float
    used: float = 0.0
    waits: int = 0
    asked: int = 0
    prompts: Counter[str] = field(default_factory=Counter)

    def pause(self, now: float) -> None:
        if self.waits == 0:
            self.used += now - self.resumed
        self.waits += 1

    def resume(self, now: float) -> None:
        self.waits -= 1
        self.resumed = now

    def seconds(self, now: float) -> float:
        return self.used if self.waits else self.used + now - self.resumed


class _Worker:
    """One process, with the texts that it scores."""

    def __init__(self, task: Task, process: asyncio.subprocess.Process, folder: Any) -> None:
        self.task, self.process, self.folder = task, process, folder
        self.rows: dict[int, _Row] = {}
        self.closed = False
        self._numbers = 0
        self._requests: set[asyncio.Task[None]] = set()
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, task: Task) -> "_Worker":
        """Start a worker and wait until it has loaded the task.

        Raises:
            ConfigError: it cannot load the task's file within its limits.
        """
        place = os.path.realpath(tempfile.gettempdir())  # noqa: ASYNC240  once per worker
        folder = tempfile.TemporaryDirectory(prefix="lema-scorer-", dir=place, ignore_cleanup_errors=True)
        limits = task.limits
        given = {"task": task.reference, "folder": folder.name, "memory_mib": limits.memory_mib,
                 "file_mib": limits.file_mib}  # fmt: skip
        own = {"TMPDIR": folder.name, "PYTHONDONTWRITEBYTECODE": "1"}
        environment = module_environment(program_environment()) | own
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lema_core.scoring.worker_main", json.dumps(given), env=environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            limit=LONGEST_LINE, start_new_session=True,
        )  # fmt: skip
        worker = cls(task, process, folder)
        first: dict[str, Any] = {"fatal": f"it was not ready within {START_SECONDS:g} s"}
        try:
            with contextlib.suppress(TimeoutError):
                first = await asyncio.wait_for(worker.receive(), START_SECONDS)
        finally:
            if "ready" not in first:
                await worker.close()
        if "ready" not in first:
            seen = first.get("fatal", "it ended")
            raise ConfigError(f"The scorer of {task.name} cannot be loaded in a process of its own: {seen}")
        worker._reader = asyncio.create_task(worker._read())
        return worker

    async def receive(self) -> dict[str, Any]:
        """Return the next message; an empty one where the process ended, or sent what is no message."""
        try:
            line = await self.process.stdout.readline() if self.process.stdout else b""
            found = json.loads(line) if line else {}
        except (ValueError, OSError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    async def score(self, item: TextToScore, ask: AskJudge | None, *, alone: bool) -> Scored:
        """Score one text.

        Raises:
            _WorkerLostError: the worker ended or hangs; it is closed.
            LemaError: the judge's endpoint or the budget stops the run.
        """
        loop = asyncio.get_running_loop()
        self._numbers += 1
        row = _Row(self._numbers, self.task.judge, ask, loop.create_future(), loop.time())
        self.rows[row.number] = row
        try:
            self._send({
                "row": row.number, "question": item.question, "gold": item.gold, "text": item.text,
                "candidates": item.candidates, "question_id": item.question_id,
            })  # fmt: skip
            limit = self.task.limits.seconds
            while not row.result.done() and row.seconds(loop.time()) < limit:
                # Looked at again now and then: the clock stops while the row waits for a judge or a program.
                rest = limit - row.seconds(loop.time())
                await asyncio.wait({row.result}, timeout=max(0.01, rest if not row.waits else min(rest, 1.0)))
            if not row.result.done():
                await self._end_late(row, alone=alone)
            scored = row.result.result()
            if scored.decided_by in SHARED_FAULTS and not alone:
                raise _WorkerLostError(scored)
            return scored
        finally:
            self.rows.pop(row.number, None)

    async def _end_late(self, row: _Row, *, alone: bool) -> None:
        late = failed("scorer_timeout", f"within {self.task.limits.seconds:g} s")
        if not alone:
            self._send({"cancel": row.number})
            await asyncio.wait({row.result}, timeout=CANCEL_SECONDS)
            if row.result.done():
                return
        lost = _WorkerLostError(late)
        self._lose(lost)
        await self.close()
        raise lost

    def _send(self, message: object) -> None:
        if self.process.stdin is not None and not self.closed:
            with contextlib.suppress(OSError, RuntimeError):
                self.process.stdin.write(json.dumps(message).encode("ascii") + b"\n")

    async def _read(self) -> None:
        while message := await self.receive():
            number = message.get("row")
            row = self.rows.get(number) if isinstance(number, int) else None
            if row is None or row.result.done():
                continue
            if "request" in message:
                request = asyncio.create_task(self._serve(row, message))
                self._requests.add(request)
                request.add_done_callback(self._requests.discard)
            else:
                # The worker ends after it, and must get no other text meanwhile.
                self.closed = self.closed or bool(message.get("last"))
                row.result.set_result(_scored(message))
        self._lose(_WorkerLostError(failed("scorer_ended", await self._how_it_ended())))
        await self.close()

    async def _how_it_ended(self) -> str:
        try:
            status = await asyncio.wait_for(self.process.wait(), CANCEL_SECONDS)
        except TimeoutError:
            return "it closed its output"
        if status >= 0:
            return f"status {status}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-status).name
        return f"signal {-status}"

    def _lose(self, error: BaseException) -> None:
        self.closed = True
        for row in self.rows.values():
            if not row.result.done():
                row.result.set_exception(error)
                row.result.exception()  # a row that was cancelled meanwhile has no one to look at it

    async def _serve(self, row: _Row, message: Mapping[str, Any]) -> None:
        """Do what a scorer asked for, while its clock stands still."""
        loop = asyncio.get_running_loop()
        row.pause(loop.time())
        try:
            asks = "ask" in message
            reply = await (self._ask_judge(row, message["ask"]) if asks else _run_program(message.get("run")))
        except Exception as error:  # noqa: BLE001  it ends the run by way of the text, whatever the scorer makes of it
            # No answer of this kind is a verdict: the endpoint is unusable, or the budget is used up.
            if not row.result.done():
                row.result.set_exception(error)
            return
        finally:
            row.resume(loop.time())
        self._send({"reply": message["request"], **reply})

    async def _ask_judge(self, row: _Row, messages: Any) -> dict[str, str]:
        if row.judge is None or row.ask is None:
            return {"failed": "the task names no judge: add judge=Judge(endpoint=...) to its Task"}
        row.asked += 1
        if row.asked > row.judge.requests:
            return {"failed": f"more than {row.judge.requests} requests for one text: raise Judge(requests=...)"}
        turns = tuple(messages) if isinstance(messages, list) else ()
        if not turns or not all(
            isinstance(turn, dict) and isinstance(turn.get("role"), str) and "content" in turn for turn in turns
        ):
            return {"failed": "a prompt is a text, or a list of messages with role and content"}
        text = json.dumps(turns)
        # The same prompt again is another sample, and not the same answer twice.
        sample, row.prompts[text] = row.prompts[text], row.prompts[text] + 1
        outcome = await row.ask(CompletionRequest(turns, row.judge.sampling, sample))
        if isinstance(outcome, Completion):
            return {"text": outcome.text}
        return {"failed": f"{outcome.reason}: {outcome.detail}"[:LONGEST_REASON]}

    async def close(self) -> None:
        """End the process with all that it started, and remove its folder."""
        self._lose(_WorkerLostError(failed("scorer_ended")))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()
        await asyncio.to_thread(self.folder.cleanup)


async def _run_program(wanted: Any) -> dict[str, Any]:
    try:
        files = {name: base64.b64decode(data) for name, data in wanted["files"].items()}
        limits = ProgramLimits(**wanted["limits"])
        found = await asyncio.to_thread(run_untrusted, wanted["program"], files, limits, stdin=wanted["stdin"])
    except (ConfigError, OSError, TypeError, KeyError, AttributeError, ValueError) as error:
        return {"failed": f"run_untrusted: {error}"}
    return {"result": asdict(found)}


def _scored(message: Mapping[str, Any]) -> Scored:
    """Return what a worker's message says. The scorer's code may have written it: nothing in it is certain."""
    verdict, answer, reason, code = (message.get(name) for name in ("verdict", "answer", "reason", "code"))
    if not isinstance(reason, str) or not isinstance(answer, str | None):
        return failed("scorer_result")
    if isinstance(code, str) and code in SCORER_REASONS:
        return failed(code, reason)
    if verdict not in get_args(ScoreVerdict):
        return failed("scorer_result", f"its verdict is {str(verdict)[:60]!r}")
    return Scored(str(verdict), answer, "unknown_verdict" if verdict == "unknown" else "scorer", reason)


class ScorerPool:
    """The workers of one task in this event loop, shared by all shards."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.users = 0
        self._at_once = inspect.iscoroutinefunction(task.scorer)
        count = max(1, min(8, os.cpu_count() or 2))
        self._alone = asyncio.Semaphore(count)
        self._together = asyncio.Semaphore(TEXTS_AT_ONCE)
        self._idle: list[_Worker] = []
        self._shared: _Worker | None = None
        self._starts = asyncio.Lock()

    async def score(self, item: TextToScore, ask: AskJudge | None) -> Scored:
        """Return the verdict on one text.

        Raises:
            ConfigError: the task's file cannot be loaded in a process of its own.
            LemaError: the judge's endpoint or the budget stops the run.
        """
        if self._at_once:
            try:
                async with self._together:
                    async with self._starts:
                        if self._shared is None or self._shared.closed:
                            self._shared = await _Worker.start(self.task)
                        shared = self._shared
                    return await shared.score(item, ask, alone=False)
            except _WorkerLostError:
                pass  # perhaps because of another text: it gets a worker of its own
        async with self._alone:
            self._idle = [worker for worker in self._idle if not worker.closed]
            scored = await self._score_alone(item, ask, self._idle.pop()) if self._idle else None
            return scored or await self._score_alone(item, ask, None) or failed("scorer_ended")

    async def _score_alone(self, item: TextToScore, ask: AskJudge | None, used: _Worker | None) -> Scored | None:
        """Score a text in a worker without others; None where what an earlier text left there may be the cause."""
        worker, scored = used or await _Worker.start(self.task), None
        try:
            scored = await worker.score(item, ask, alone=used is None)
        except _WorkerLostError as lost:
            return None if used else lost.scored
        else:
            return scored
        finally:
            # One that was left in the middle of a text still works on it.
            if scored is None or worker.closed:
                await worker.close()
            else:
                self._idle.append(worker)

    async def close(self) -> None:
        """End all workers."""
        for worker in (*self._idle, *([self._shared] if self._shared else [])):
            await worker.close()


_pools: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, ScorerPool]]" = WeakKeyDictionary()


@asynccontextmanager
async def scorer_pool(task: Task) -> AsyncIterator[ScorerPool]:
    """Give the pool of a task in this event loop; the last of its users closes it."""
    pools = _pools.setdefault(asyncio.get_running_loop(), {})
    pool = pools.setdefault(task.reference, ScorerPool(task))
    pool.users += 1
    try:
        yield pool
    finally:
        pool.users -= 1
        if not pool.users:
            del pools[task.reference]
            await pool.close()


async def score_all(task: Task, texts: Sequence[TextToScore], ask: AskJudge | None = None) -> list[Scored]:
    """Return the verdict on each text, in order; equal texts of one question are scored once.

    Raises:
        ConfigError: the task's file cannot be loaded in a process of its own.
        LemaError: the judge's endpoint or the budget stops the run; what was asked until then is in the ledger.
    """
    async with scorer_pool(task) as pool:
        distinct = dict.fromkeys(texts)
        running = {item: asyncio.ensure_future(pool.score(item, ask)) for item in distinct}
        try:
            await asyncio.gather(*running.values())
        finally:
            for job in running.values():
                job.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)
        return [running[item].result() for item in texts]


async def check_scorer(task: Task) -> None:
    """Make sure that the scorer can be loaded under its limits, before anything is paid.

    Raises:
        ConfigError: it cannot.
    """
    worker = await _Worker.start(task)
    await worker.close()

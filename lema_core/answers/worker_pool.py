"""Worker processes for the heavy layers, each killed when a pair takes too long.

Math-Verify cannot be stopped from inside (its own timeout is a signal, which raises in threads), so it runs where it
can be killed. Calls block and are safe from any thread; asyncio callers use ``asyncio.to_thread``. No signal handler
is installed here. Workers start when the first pair needs one, are reused, and end with this process.
"""

import atexit
import json
import os
import queue
import re
import select
import subprocess
import sys
import threading
import time
from typing import Any

import psutil

from lema_core.answers.results import Match
from lema_core.system.processes import module_environment

PAIR_CPU_SECONDS = 0.8
"""CPU time a pair may use: a busy machine must not turn a slow pair into an unknown one."""
PAIR_WALL_SECONDS = 8.0
START_SECONDS = 60.0
POLL_SECONDS = 0.05
MEMORY_MIB = 2048
MAX_CHARS = 500
MAX_DEPTH = 20
_LONG_NUMBER = re.compile(r"[0-9]{60,}")
_BIG_EXPONENT = re.compile(r"(?:\^|\*\*)\s*\{?\s*[-+(]?\s*[0-9]{5,}")
_FACTORIALS = re.compile(r"[0-9]{4,}\s*[)}]*\s*!|!\s*[)}]*\s*!")
_BIG_RANGE = re.compile(
    r"\\(?:prod|sum|int)\b.{0,500}?[0-9]{4}|binom\s*\{\s*[0-9]{5}|!.{0,500}?\\prod|\\prod.{0,500}?!", re.DOTALL
)
_BASED = re.compile(r"[0-9]\s*_\s*\{?\s*[0-9]")
_SIGNS = re.compile(r"\\pm|\\mp|[±∓]")
MAX_SIGNS = 6
_TOWER = re.compile(r"(?:\^|\*\*)[^-+=,;&]{0,40}(?:\^|\*\*)[^-+=,;&]{0,40}(?:\^|\*\*)")


class Workers:
    """A pool of at most ``count`` worker processes."""

    def __init__(self, count: int = 1, *, cpu_seconds: float = PAIR_CPU_SECONDS, memory_mib: int = MEMORY_MIB) -> None:
        self.cpu_seconds = cpu_seconds
        self.memory_mib = memory_mib
        self._slots: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(count):
            self._slots.put(None)
        self._count = count

    def match(self, gold: str, pred: str) -> Match:
        """Compare two answers in a worker; unknown where they are too heavy, the worker dies or the time is up."""
        # Before a worker is taken: a tower of powers would cost its whole deadline, and the worker
        for name, text in (("gold answer", gold), ("answer", pred)):
            reason = too_heavy(text)
            if reason is not None:
                return Match("unknown", "limits", f"the {name} has {reason}")
        worker = self._slots.get()
        try:
            if worker is None or not worker.alive():
                worker = _Worker(self.memory_mib)
            reply = worker.ask(gold, pred, self.cpu_seconds)
            if reply is None:
                worker = _Worker(self.memory_mib)  # it gets ready while the caller goes on
                return Match(
                    "unknown", "deadline", f"no result within {self.cpu_seconds} s of CPU time; the worker was killed"
                )
            return Match(reply["outcome"], reply["layer"], reply["ground"])
        finally:
            self._slots.put(worker)

    def close(self) -> None:
        """End all workers; a later call starts new ones."""
        for _ in range(self._count):
            worker = self._slots.get()
            if worker is not None:
                worker.kill()
        for _ in range(self._count):
            self._slots.put(None)


class _Worker:
    def __init__(self, memory_mib: int) -> None:
        self.process = subprocess.Popen(  # noqa: S603 our own module in our own interpreter
            [sys.executable, "-m", "lema_core.answers.worker_main", str(memory_mib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=module_environment(os.environ),
        )
        self.buffer = b""
        self.usage = psutil.Process(self.process.pid)
        self.ready = False

    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, gold: str, pred: str, cpu_seconds: float) -> dict[str, Any] | None:
        """Return the worker's reply; None where it died or was killed for its time."""
        if not self.ready:
            self.ready = self.read(START_SECONDS, START_SECONDS) is not None
        if self.process.stdin is None or not self.alive():
            return None
        try:
            self.process.stdin.write(json.dumps([gold, pred]).encode("ascii") + b"\n")
            self.process.stdin.flush()
        except OSError:
            self.kill()
            return None
        return self.read(cpu_seconds, PAIR_WALL_SECONDS)

    def read(self, cpu_seconds: float, wall_seconds: float) -> dict[str, Any] | None:
        """Wait for one line while the worker has CPU time left."""
        used, end = self.cpu(), time.monotonic() + wall_seconds
        while b"\n" not in self.buffer:
            # CPU time, not wall time, decides on a busy machine; the wall limit ends a worker that only waits
            late = self.cpu() - used >= cpu_seconds or time.monotonic() >= end
            data = b"" if late else self.receive()
            if late or data == b"":
                self.kill()
                return None
            self.buffer += data or b""
        line, _, self.buffer = self.buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def receive(self) -> bytes | None:
        """Return what has come, None where nothing has yet, b"" where nothing will come any more."""
        if self.process.stdout is None:
            return b""
        ready = select.select([self.process.stdout], [], [], POLL_SECONDS)[0]
        return os.read(self.process.stdout.fileno(), 65_536) if ready else None

    def cpu(self) -> float:
        try:
            times = self.usage.cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def kill(self) -> None:
        """Kill and reap; also close the pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue


_lock = threading.Lock()
_shared: list[Workers] = []


def shared_workers() -> Workers:
    """Return this process's pool; the first call creates it, no process starts before a pair needs one."""
    with _lock:
        if not _shared:
            _shared.append(Workers(count=max(1, min(4, (os.cpu_count() or 2) // 2))))
            atexit.register(_shared[0].close)
        return _shared[0]


def too_heavy(answer: str) -> str | None:
    """Return why an answer must not be handed to a computer algebra system, or None where it may be."""
    if len(answer) > MAX_CHARS:
        return f"{len(answer)} characters; at most {MAX_CHARS} are computed with"
    if len(_SIGNS.findall(answer)) > MAX_SIGNS:
        return f"more than {MAX_SIGNS} signs ±"
    depth = deepest = 0
    for character in answer:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        return f"brackets nested {deepest} deep; at most {MAX_DEPTH} are computed with"
    for pattern, reason in (
        (_LONG_NUMBER, "a number of 60 digits or more"),
        (_BIG_EXPONENT, "an exponent of five digits or more"),
        (_FACTORIALS, "a factorial of a factorial or of a number of four digits"),
        (_TOWER, "a tower of powers"),
        (_BASED, "a number in a base, which the parsers read as a decimal number"),
        (_BIG_RANGE, "a sum, product, integral or binomial over large numbers"),
    ):
        if pattern.search(answer):
            return reason
    return None

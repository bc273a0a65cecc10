"""One scenario at work: the same command again and again in a root of its own, and what is seen meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from chaos.damage import payments
from chaos.harness import Harness
from chaos.snapshot import Snapshot, take_snapshot
from lema_core.llm.simulated import Faults

POLL_S = 0.002
HANG_S = 1800.0
"""A run that takes so long hangs."""
ENTRY = "from flows.cli import app; app()"
Moment = Callable[[], bool]


@dataclass(slots=True)
class LemaProcess:
    """A started ``lema run`` and the files it writes its messages to."""

    process: subprocess.Popen[bytes]
    out: Path
    errors: Path

    def error_output(self) -> str:
        """Return its error output."""
        return self.errors.read_text("utf-8", "replace").strip()

    def shows_one_error(self) -> bool:
        """Tell whether it ended with one message for its user."""
        said = self.error_output()
        return "Traceback" not in said and sum(line.startswith("error:") for line in said.splitlines()) == 1


@dataclass(slots=True)
class ScenarioRun:
    """A scenario's runs and what went against expectation."""

    harness: Harness
    name: str
    faults: Faults
    kills: int = 0
    allowed: int = 0
    """Payments that may have been in vain so far."""
    torn: int = 0
    """Completions that went with the end of the ledger's log. What was made of them may be published already."""
    problems: list[str] = field(default_factory=list)
    snapshot: Snapshot | None = None
    runs: int = 0
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.harness.prepare(self.name, self.faults)

    @property
    def root(self) -> Path:
        """Return where the runs put their artifacts."""
        return self.folder / "root"

    @property
    def ledger(self) -> Path:
        """Return the runs' ledger."""
        return self.root / "ledger.sqlite"

    @property
    def in_flight(self) -> int:
        """Return how many payments may be on their way: an answer that was cut off is paid, and asked for again."""
        return self.harness.concurrency * (2 if self.faults.cut_off else 1)

    def start(self, file_limit: int | None = None) -> LemaProcess:
        """Start the command; with a limit, a file that grows beyond so many bytes cannot be written."""
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({file_limit}, {file_limit})); "
        program = f"{limit if file_limit else ''}{ENTRY}"
        words = [sys.executable, "-c", program, "run", str(self.folder / "run.toml"), "--root", str(self.root)]
        self.runs += 1
        out, errors = (self.folder / f"run-{self.runs}.{name}" for name in ("out", "err"))
        with out.open("wb") as first, errors.open("wb") as second:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=first, stderr=second, start_new_session=True
            )
        return LemaProcess(process, out, errors)

    def wait(self, run: LemaProcess, moment: Moment) -> bool:
        """Wait for a moment; tell whether it came before the run ended."""
        deadline = time.monotonic() + HANG_S
        while not moment():
            if run.process.poll() is not None:
                return moment()
            if time.monotonic() > deadline:
                self.kill(run)
                self.problems.append(f"the run hung: nothing ended it in {HANG_S:.0f} s")
                return False
            time.sleep(POLL_S)
        return run.process.poll() is None

    def kill(self, run: LemaProcess) -> None:
        """Kill -9 the run and what it started, and let the endpoint finish what it was asked."""
        family = psutil.Process(run.process.pid).children(recursive=True)
        os.killpg(run.process.pid, signal.SIGKILL)
        for child in family:
            # Servers of a run are sessions of their own; an orphan would only hold memory here.
            child.kill()
        run.process.wait()
        self.settle()
        self.kills += 1
        self.allow_uncommitted()

    def allow_uncommitted(self) -> None:
        """Take note of what is paid and in no ledger, now that the run has ended: it may be paid for again."""
        uncommitted = len(self.harness.endpoint.stats.paid) - payments(self.ledger)
        self.allowed += min(uncommitted, self.in_flight)

    def settle(self) -> None:
        """Wait until the endpoint has answered what is out: an answer nobody reads is paid all the same."""
        while self.harness.endpoint.stats.in_flight:
            time.sleep(POLL_S)

    def kill_at(self, what: str, moment: Moment) -> None:
        """Start the command and kill it at a moment; one that is past already is left out."""
        if moment():
            return
        run = self.start()
        if self.wait(run, moment):
            self.kill(run)
        else:
            self.problems.append(f"the run ended before it could be killed at {what}: {self._end_of(run)}")

    def fail(self, why: str, file_limit: int | None = None) -> None:
        """Run the command and expect that it ends with one clear error."""
        run = self.start(file_limit)
        self.wait(run, lambda: False)
        self.settle()
        if run.process.returncode == 0:
            self.problems.append(f"{why}: the run ended well, with an error expected")
        elif not run.shows_one_error():
            self.problems.append(f"{why}: not one clear error but {run.error_output()[-500:]!r}")

    def finish(self, run: LemaProcess | None = None) -> None:
        """Run the command, or wait for one that is started, expect that it finishes, and look at what it left."""
        run = run or self.start()
        self.wait(run, lambda: False)
        self.settle()
        if run.process.returncode != 0:
            self.problems.append(f"the last run did not finish: {self._end_of(run)}")
            return
        self.snapshot = take_snapshot(self.root, self.harness.endpoint.stats)

    def paid(self, share: float) -> Moment:
        """Return the moment at which a share of the run's requests is paid."""
        wanted = max(1, int(share * len(self.harness.plain.requests)))
        return lambda: len(self.harness.endpoint.stats.paid) >= wanted

    @staticmethod
    def _end_of(run: LemaProcess) -> str:
        return f"exit code {run.process.returncode}, {run.error_output()[-500:]!r}"

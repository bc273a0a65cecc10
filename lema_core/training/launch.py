"""Starts a training run as processes of their own, passes its events on, and leaves no process behind.

The run is ``torchrun`` (or DeepSpeed's launcher where there is a hostfile) in a new process group. The group is ended
when the caller is cancelled; should this process die, the kernel ends the launcher, and then the ranks
(``lema_core.system.processes``).
"""

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from lema_core.artifacts.files import atomic_local
from lema_core.errors import TrainingError
from lema_core.llm.embedded import cache_dir
from lema_core.system.processes import (
    HUB_TOKEN,
    STARTED_BY,
    TRACKER_KEY,
    VISIBLE_DEVICES,
    Devices,
    assigned_devices,
    device_environment,
    die_with_parent,
    end_group,
    module_environment,
    program_environment,
)
from lema_core.training.checkpoints import complete_checkpoints
from lema_core.training.program import parse_event, report_full_disk
from lema_core.training.specs import LaunchSpec, TrainingSpec, dump_specs

OnEvent = Callable[[dict[str, Any]], None]

_TAIL_LINES = 40
_REPORT_LINES = 200
_LINE_LIMIT = 2**20
_LOOK_S, _DRAIN_S = 0.5, 5.0
"""Between two looks at whether a run has ended whose output is still open; for the rest of its output then."""
_RANK_FAILED = re.compile(r"torch/distributed/elastic/.*(?:failed \(exitcode|closing signal)")
"""How torchrun begins its report of a rank that failed. After it come 30 lines of its own traceback."""
_FIRST_FAILURE = re.compile(r"Root Cause.*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a run left in its output folder."""

    model: Path
    """A whole checkpoint for ``from_pretrained``, tokenizer and chat template included."""
    metrics: Path
    """Parquet, one row per step: step, loss, learning_rate, grad_norm, tokens, tokens_per_second, mfu, and
    by rank the most memory held so far: peak_rss_mib, peak_device_mib."""
    checkpoints: tuple[Path, ...]
    start: dict[str, Any] = field(default_factory=dict)
    """The run's ``start`` event: ranks, pieces, precision, attention, padding, counts of the data."""


async def run_training(
    spec: TrainingSpec, launch: LaunchSpec, examples: Path, out: Path, on_event: OnEvent | None = None
) -> TrainingResult:
    """Tokenise a mixture's folder and fine-tune on it; the same call continues from the newest complete checkpoint.

    Args:
        spec: what is trained.
        launch: on how many ranks, and how.
        examples: folder with ``part-*.parquet`` of ``records.Example`` rows.
        out: receives ``spec.json``, ``tokens/`` (written again each time), ``model/``, ``metrics.parquet``, ``log.txt``
            and checkpoints.
        on_event: called with each event: ``tokenised``, ``start``, ``step``, ``checkpoint``, ``done``.

    Raises:
        TrainingError: the run failed; the text carries its own message or the end of its log.
    """
    await run_tokenising(spec, examples, out / "tokens", on_event)
    return await run_on_tokens(spec, launch, out / "tokens", out, on_event)


async def run_tokenising(spec: TrainingSpec, examples: Path, out: Path, on_event: OnEvent | None = None) -> None:
    """Write a mixture's examples as the base model's tokens into ``out``, whole or not at all.

    Raises:
        TrainingError: it failed; the text carries its own message or the end of its log.
    """
    await import_torch()
    command = [sys.executable, "-m", "lema_core.training.data", "--spec", str(_write_spec(spec, LaunchSpec(), out))]
    command += ["--examples", str(examples), "--out", str(out)]
    await run_group(command, out / "log.txt", clean_environment(os.environ, LaunchSpec()), on_event or (lambda _: None))


async def run_on_tokens(
    spec: TrainingSpec,
    launch: LaunchSpec,
    tokens: Path,
    out: Path,
    on_event: OnEvent | None = None,
    *,
    logs: Path | None = None,
) -> TrainingResult:
    """Fine-tune on what ``run_tokenising`` wrote; for the rest see ``run_training``.

    ``logs`` is the folder of ``log.txt`` and ``tensorboard/``, by default ``out``.
    """
    seen: dict[str, dict[str, Any]] = {}

    def note(event: dict[str, Any]) -> None:
        seen[event["event"]] = event
        if on_event:
            on_event(event)

    await import_torch()
    command = [*launcher(launch), "lema_core.training.sft", "--spec", str(_write_spec(spec, launch, out))]
    command += ["--data", str(tokens), "--out", str(out)]
    logs = logs or out
    trackers = {"TENSORBOARD_LOGGING_DIR": str(logs / "tensorboard")}  # one place for a run and its continuation
    await run_group(command, logs / "log.txt", trackers | clean_environment(os.environ, launch), note)
    checkpoints = tuple(complete_checkpoints(out))
    return TrainingResult(out / "model", out / "metrics.parquet", checkpoints, seen.get("start", {}))


def _write_spec(spec: TrainingSpec, launch: LaunchSpec, out: Path) -> Path:
    with report_full_disk(out), atomic_local(out / "spec.json") as local:  # another node may be reading it
        local.write_text(dump_specs(spec, launch))
    return out / "spec.json"


async def import_torch() -> None:
    """Import torch, which knows the GPUs, in a thread: on a busy machine it takes longer than a signal may wait."""
    await asyncio.to_thread(import_module, "torch")


def ranks_here(launch: LaunchSpec) -> int:
    """Return the number of processes on this machine: one per GPU that we may use, else at most two CPU ranks."""
    return launch.ranks or len(assigned_devices() or gpus_here()) or min(os.cpu_count() or 1, 2)


def gpus_here() -> Devices:
    """Return the GPUs of this machine that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get(VISIBLE_DEVICES, "").split(",")
    return tuple(named[:count]) if any(named) else tuple(map(str, range(count)))


def launcher(launch: LaunchSpec) -> list[str]:
    """Return the command that starts the ranks, to be followed by a module's name and its arguments."""
    if launch.hostfile:
        command = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", launch.hostfile]
        return [*command, "--launcher", launch.hostfile_launcher, "--module"]
    command = [*launch.through, sys.executable, "-m", "torch.distributed.run"]
    command += ["--nproc-per-node", str(ranks_here(launch))]
    if launch.nodes == 1:
        # --standalone picks a free port, so that two runs on one machine do not meet.
        return [*command, "--standalone", "-m"]
    command += ["--nnodes", str(launch.nodes)]
    if launch.through:
        # One command for all nodes cannot number them: they agree on their ranks at the rendezvous.
        return [
            *command,
            "--rdzv-backend",
            "c10d",
            "--rdzv-id",
            "lema",
            "--rdzv-endpoint",
            str(launch.rendezvous),
            "-m",
        ]
    # Fixed ranks, so that rank 0, which sends the events, is on the node that started the run.
    host, port = str(launch.rendezvous).rsplit(":", 1)
    return [*command, "--node-rank", str(launch.node_rank), "--master-addr", host, "--master-port", port, "-m"]


def clean_environment(given: Mapping[str, str], launch: LaunchSpec) -> dict[str, str]:
    """Return the environment of a run: what is allowed, with the hub's and the trackers' keys and no others.

    Leftovers of another launcher (``RANK``, ``MASTER_ADDR``) are not among what is allowed.
    """
    allowed = program_environment((HUB_TOKEN, TRACKER_KEY, *launch.environment), given=given)
    kept = module_environment(device_environment(allowed))
    kept |= {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "TORCHELASTIC_ERROR_FILE": os.devnull}
    kept.setdefault("TRANSFORMERS_VERBOSITY", "error")
    kept.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    kept.setdefault("TORCH_EXTENSIONS_DIR", str(cache_dir() / "torch_extensions"))
    import torch

    if not (launch.through or launch.hostfile):
        kept[STARTED_BY] = str(os.getpid())  # other launchers' ranks descend from daemons of their own
    if not torch.cuda.is_available():
        share = max(1, (os.cpu_count() or 1) // ranks_here(launch))
        kept |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(launch.threads or share)}
        # Return activations to malloc and not to the kernel: mapping them again costs up to a fifth of a step.
        kept.setdefault(
            "GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=17179869184"
        )
    return kept


async def run_group(command: Sequence[str], log: Path, environment: Mapping[str, str], on_event: OnEvent) -> None:
    """Run a command in a process group of its own; its output goes to ``log``, its events to ``on_event``.

    Raises:
        TrainingError: it ended with another status than 0.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
        preexec_fn=partial(die_with_parent, os.getpid()),
        limit=_LINE_LIMIT,
    )
    output = _Output()
    reading = asyncio.create_task(_read_output(process, log, on_event, output))
    try:
        # Not until the output's end alone: a helper of a rank that inherited the pipe may outlive the run.
        while not reading.done() and process.returncode is None:
            await asyncio.wait([reading], timeout=_LOOK_S)
        if reading.done():
            await reading
            await process.wait()
        # Also after a clean end: a rank's helpers may hold memory and GPUs. Without them the output has an end.
        await end_group(process)
        await asyncio.wait([reading], timeout=_DRAIN_S)
        if reading.done():
            await reading
    finally:
        if not reading.done():
            reading.cancel()
            process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio closes it in no other way
        await end_group(process)
    if process.returncode == 0:
        return
    # The program named the cause itself, in an ``error`` event.
    raise TrainingError(output.errors[0] if output.errors else output.describe_end(process.returncode, log))


@dataclass(slots=True)
class _Output:
    """What a run has written beside its events."""

    errors: list[str] = field(default_factory=list)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))
    """The end of what the ranks wrote: all lines before the launcher's report of a rank that failed."""
    report: deque[str] = field(default_factory=lambda: deque(maxlen=_REPORT_LINES))

    def add(self, line: str) -> None:
        """Add a line that is no event."""
        reports = self.report or _RANK_FAILED.search(line)
        (self.report if reports else self.last).append(line)

    def describe_end(self, status: int | None, log: Path) -> str:
        """Return the message of a run that failed: which rank, how, and its last words."""
        if found := _FIRST_FAILURE.search("\n".join(self.report)):
            who, status = f"rank {found[1]} of the training run", int(found[2])
        else:
            who = "the training run"
        how = "ended without a status"
        if status is not None:
            how = f"was ended by {_signal_name(-status)}" if status < 0 else f"ended with status {status}"
        return (
            f"{who} {how}; the same command goes on from the newest checkpoint. Last words before that, all of them in "
            f"{log}:\n" + "\n".join(self.last or self.report)
        )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


async def _read_output(process: asyncio.subprocess.Process, log: Path, on_event: OnEvent, output: _Output) -> None:
    if process.stdout is None:
        raise TrainingError("the training process has no output to read")
    with report_full_disk(log.parent), log.open("a", encoding="utf-8") as sink:
        async for raw in process.stdout:
            line = raw.decode("utf-8", "replace")
            sink.write(line)
            sink.flush()
            event = parse_event(line)
            if event is None:
                output.add(line.rstrip())
            elif event["event"] == "error":
                output.errors.append(str(event["message"]))
            else:
                on_event(event)

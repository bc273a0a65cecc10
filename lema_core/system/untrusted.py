"""Programs that a model wrote: run in a sandbox with limits of time, memory and files, without the network.

With bubblewrap (``bwrap``), where it is installed and the kernel allows it: namespaces of its own, a read-only system,
no home folder. Without it: what Linux gives an unprivileged process (``lema_core.system.confine``). `isolation` says
what holds here, and docs/security.md has it in full.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

from lema_core.errors import ConfigError
from lema_core.system import confine

Outcome = Literal["finished", "timeout", "signal", "not_started"]
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
"""What a program in bubblewrap sees beside Python: programs and libraries, no data of the machine or its users."""
WORK, GIVEN, _LAUNCHER = "/lema-work", "/lema-given", "/lema-confine.py"
"""In bubblewrap; names that hide no folder of Python's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramLimits:
    """What an untrusted program may use. It is one process; threads are allowed."""

    seconds: float = 10.0
    """Of wall time, and about as many of CPU time."""
    memory_mib: int = 512
    """Of address space."""
    file_mib: int = 16
    """The size of a file that it writes, its output included; in bubblewrap also the sum of all files."""
    output_chars: int = 20_000
    """How much of its output and of its errors is returned: the last characters."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one of them is too small.
        """
        if self.seconds <= 0 or self.memory_mib < 32 or self.file_mib < 1 or self.output_chars < 0:
            raise ConfigError(f"{self}: seconds is above 0, memory_mib at least 32, file_mib at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramResult:
    """How a program ended, and what it wrote."""

    outcome: Outcome
    """``finished`` whatever its status; ``signal``: it was killed or crashed; ``timeout``; ``not_started``."""
    status: int | None
    """Its exit status; None where it has none."""
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Return whether it ended by itself with status 0."""
        return self.outcome == "finished" and self.status == 0


Delegate = Callable[[Sequence[str], Mapping[str, str | bytes], ProgramLimits, str], ProgramResult]
delegate: ContextVar[Delegate | None] = ContextVar("delegate", default=None)
"""Set in a scorer's process, which may start no program: its parent runs it."""


def run_untrusted(
    program: Sequence[str],
    files: Mapping[str, str | bytes],
    limits: ProgramLimits = ProgramLimits(),
    *,
    stdin: str = "",
) -> ProgramResult:
    """Run a program on its files in a folder of its own, isolated as `isolation` says; it never raises by what it does.

    Args:
        program: the command; ``python`` is this interpreter. No shell reads it.
        files: texts or bytes by their relative path in the folder.
        limits: of time, memory, files.
        stdin: what the program reads on its standard input.

    Raises:
        ConfigError: the command is empty, or a file's path leaves the folder.
    """
    if not program or not all(isinstance(word, str) and "\0" not in word for word in program):
        raise ConfigError(f"program={program!r}: expected a command, as ['python', 'solution.py']")
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
            raise ConfigError(f"files: {name!r} is no path within the program's folder")
    if run_elsewhere := delegate.get():
        return run_elsewhere(program, files, limits, stdin)
    with tempfile.TemporaryDirectory(prefix="lema-program-", ignore_cleanup_errors=True) as base:
        work = Path(base, "work")
        work.mkdir()
        for name, text in files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
            (work / name).write_bytes(data)
        return _run(list(program), Path(base), work, limits, stdin)


def _run(program: list[str], base: Path, work: Path, limits: ProgramLimits, stdin: str) -> ProgramResult:
    boxed = has_bubblewrap()
    python = sys.executable
    nobody = not boxed and os.geteuid() == 0 and _nobody_can_run(python)
    given = {"copy": GIVEN if boxed else "", "alone": not boxed, "nobody": nobody, "memory_mib": limits.memory_mib,
             "file_mib": limits.file_mib, "seconds": limits.seconds}  # fmt: skip
    words = [python if program[0] == "python" else program[0], *program[1:]]
    launcher = _LAUNCHER if boxed else str(base / "confine.py")
    command = [python, "-I", "-S", launcher, json.dumps(given), *words]
    if boxed:
        command = [*_bubblewrap(limits), "--ro-bind", str(work), GIVEN, *_READ_ONLY, "--", *command]
    else:
        shutil.copy(confine.__file__, launcher)  # a place that nobody may read, as a checkout may not be
        if nobody:
            base.chmod(0o711)
            for place in (work, *work.rglob("*")):
                os.chown(place, 65534, 65534)
    names = {"stdin": base / "stdin", "stdout": base / "stdout", "stderr": base / "stderr"}
    names["stdin"].write_bytes(stdin.encode("utf-8", "surrogatepass"))
    home = WORK if boxed else str(work)
    environment = {"PATH": f"{Path(python).parent}:/usr/bin:/bin", "HOME": home, "TMPDIR": home,
                   "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    # Files and not pipes: a program that prints without end fills its own limit, not our memory.
    with names["stdin"].open("rb") as source, names["stdout"].open("wb") as out, names["stderr"].open("wb") as errors:
        try:
            process = subprocess.Popen(  # noqa: S603  the sandbox; no shell
                command, stdin=source, stdout=out, stderr=errors, cwd=work, env=environment, start_new_session=True
            )
        except OSError as error:
            return ProgramResult(outcome="not_started", status=None, stdout="", stderr=str(error))
        outcome, status = _wait(process, limits.seconds)
    texts = [_tail(names[name], limits.output_chars) for name in ("stdout", "stderr")]
    return ProgramResult(outcome=outcome, status=status, stdout=texts[0], stderr=texts[1])


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> tuple[Outcome, int | None]:
    status: int | None = None
    with contextlib.suppress(subprocess.TimeoutExpired):
        status = process.wait(seconds)
    # Its group too; in bubblewrap the death of the first process ends the namespace of all.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if status is None:
        return "timeout", None
    # bubblewrap passes a signal on as 128 + its number, as a shell does.
    if status < 0 or 128 < status < 128 + 65:
        return "signal", None
    return "finished", status


def _bubblewrap(limits: ProgramLimits) -> list[str]:
    python = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent)}
    words = ["bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
             "--uid", "65534", "--gid", "65534", "--hostname", "lema", "--proc", "/proc", "--dev", "/dev"]  # fmt: skip
    for place in map(Path, SYSTEM):
        if place.is_symlink():
            words += ["--symlink", str(place.readlink()), str(place)]
        elif place.exists():
            words += ["--ro-bind", str(place), str(place)]
    for folder in sorted(python):
        words += [] if folder.startswith("/usr/") or folder == "/usr" else ["--ro-bind", folder, folder]
    words += ["--ro-bind", confine.__file__, _LAUNCHER]
    # The folder in memory is the only one that can be written in; its size limits the sum of all files.
    return [*words, "--size", str(limits.file_mib << 20), "--tmpfs", WORK, "--chdir", WORK]


_READ_ONLY = ("--remount-ro", "/dev", "--remount-ro", "/")
"""Last: mounts on them come before."""


@cache
def has_bubblewrap() -> bool:
    """Return whether bubblewrap is installed and works here: containers and some kernels refuse it."""
    if shutil.which("bwrap") is None:
        return False
    with tempfile.TemporaryDirectory() as given:
        command = [*_bubblewrap(ProgramLimits()), "--ro-bind", given, GIVEN, *_READ_ONLY, "--"]
        command += [sys.executable, "-I", "-S", "-c", "pass"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=30, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0


def isolation() -> str:
    """Return in words what holds here for programs that `run_untrusted` runs, and what does not."""
    if has_bubblewrap():
        return (
            "Programs run in bubblewrap: no network, namespaces of their own, a read-only system without home folders, "
            "a folder in memory, one process each, limits of time, memory and files. Not isolated: the kernel itself."
        )
    why = "bubblewrap does not work here" if shutil.which("bwrap") else "bubblewrap (bwrap) is not installed"
    held = ["limits of time, memory and size of a file", "an empty environment"]
    reader = "your user"
    if os.geteuid() == 0:
        reader = "the user nobody" if _nobody_can_run(sys.executable) else "root"
    lacks = [f"they can read every file that {reader} can read"]
    filtered = sys.platform == "linux" and os.uname().machine in {"x86_64", "aarch64"}
    (held if filtered else lacks).append("no network and no further process" if filtered else "the network is open")
    landlocked = confine.landlock_version() > 0
    (held if landlocked else lacks).append(
        "no writing outside their folder" if landlocked else "they can write wherever the user can"
    )
    return f"{why}. Programs run with {', '.join(held)}. NOT isolated: {'; '.join(lacks)}; the kernel itself."


@cache
def _nobody_can_run(python: str) -> bool:
    """Return whether the user ``nobody`` can run this interpreter; one under /root is closed to all others."""
    command = [python, "-I", "-S", "-c", "pass"]
    try:
        done = subprocess.run(command, user=65534, group=65534, capture_output=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _tail(file: Path, chars: int) -> str:
    with file.open("rb") as data:
        data.seek(max(0, file.stat().st_size - 4 * chars))
        return data.read().decode("utf-8", "replace")[-chars:] if chars else ""

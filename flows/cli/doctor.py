"""``lema doctor``: what is installed, which devices and servers are there, what is missing and how to get it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import typer

from flows.cli.console import console
from flows.local_stack import machine, server, stack
from flows.local_stack.machine import Finding
from lema_core.errors import ConfigError, LemaError

if TYPE_CHECKING:
    from lema_core.llm.endpoints import EndpointSpec
    from lema_core.run.spec import RunSpec

INTERPRETER = "{python}"
"""In an endpoint's command: the Python that runs LeMa."""
PATIENCE_SECONDS = 5.0
REFUSED = "refuses the key"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run file asks of the machine; without one, nothing is needed but the base installation."""

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
    root: Annotated[str, typer.Option(help="Where artifacts and the ledger are stored: these are examined too.")] = (
        ".lema"
    ),
) -> None:
    """Say what is installed, which devices and servers are there, what is missing and how to get it.

    Without a run file nothing but the base installation counts as missing. With one, everything that it needs is
    looked at: the extras, the programs and URLs of its endpoints, and the keys they take from the environment. Nothing
    is paid and nothing is started. Artifacts under the root in which requests failed are named. The exit code is 1
    where something needed is missing, or an artifact holds nothing but failed requests.
    """
    findings = [*examine(_needs(run_file)), *_artifacts(root)]
    _show(findings)
    missing = [finding for finding in findings if finding.state == "missing"]
    if missing:
        console.print(f"\n[red]{len(missing)} missing[/red]: {', '.join(finding.part for finding in missing)}")
        raise typer.Exit(1)
    console.print("\n[green]ready[/green]" + (f" for {run_file}" if run_file else ""))


def examine(needs: Needs) -> Iterator[Finding]:
    """Look at the machine, part by part."""
    yield machine.python()
    yield from machine.packages(needs.extras)
    yield machine.student(needed=needs.student)
    yield from machine.devices()
    yield _prefect()
    yield from (Finding(*line) for line in stack.examined())
    for path in needs.files:
        yield _file(path)
    for spec in needs.endpoints:
        yield _endpoint(spec)


def _artifacts(root: str) -> Iterator[Finding]:
    """Look for artifacts that hold failed requests; one that holds nothing else is as good as missing."""
    if "://" not in root and not Path(root, "store").is_dir():
        return
    from flows.remaking import lossy, runs_of
    from lema_core.artifacts import Store

    try:
        found = lossy(Store(f"{root.rstrip('/')}/store"))
        names = runs_of([one.ref for one in found], root) if found else {}
    except LemaError as error:
        yield Finding("artifacts", "missing", str(error), "delete what it names, or move it away")
        return
    for one in found:
        name = names.get(one.ref, "RUN")
        remedy = f"lema resume {name} --remake-failed" + ("" if root == ".lema" else f" --root {root}")
        yield Finding("failed requests", "missing" if one.empty else "absent", f"in {one}", remedy)


def _needs(run_file: Path | None) -> Needs:
    if run_file is None:
        return Needs()
    from lema_core.run.files import read_run_file

    run = read_run_file(run_file)
    specs = [spec if spec.name != "endpoint" else spec.model_copy(update={"name": name}) for name, spec in _asked(run)]
    embedded = any("lema_core.llm.embedded" in word for spec in specs for word in spec.command or ())
    extras = {
        "train": run.training is not None,
        "local": embedded,
        "postgres": (run.runtime.ledger or "").startswith("postgresql"),
        "scale": bool(run.runtime.workers or run.runtime.scheduler),
    }
    return Needs(
        extras=frozenset(name for name, needed in extras.items() if needed),
        student=embedded and any(spec.model == "smollm2" for spec in specs),
        endpoints=tuple(specs),
        files=tuple(q.path for q in (run.questions, run.test_questions) if q and q.path),
    )


def _asked(run: "RunSpec") -> Iterator[tuple[str, "EndpointSpec"]]:
    yield from run.endpoints.items()
    if run.evaluation and run.evaluation.serve:
        yield "evaluation", run.evaluation.serve


def _prefect() -> Finding:
    given = os.environ.get("PREFECT_API_URL")
    port = None if given else server.running_port(server.HOME)
    api = given or server.api_url(port or server.DEFAULT_PORT)
    problem = _problem(f"{api.rstrip('/')}/health", None)
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


def _file(path: str) -> Finding:
    if "://" in path or Path(path).is_file():
        return Finding("questions", "ok", path)
    return Finding("questions", "missing", f"{path} is not there", "give its path from the current directory")


def _endpoint(spec: "EndpointSpec") -> Finding:
    part = f"endpoint {spec.name}"
    if spec.api_key_env:
        try:
            spec.api_key()
        except ConfigError as error:
            return Finding(part, "missing", str(error), f"export {spec.api_key_env}=...")
    if spec.command:
        return _command(part, spec, spec.command[0])
    if spec.base_url is None:
        return Finding(part, "missing", f"{spec.model}: neither base_url nor command", "say where it answers")
    if spec.api_key_secret:
        return Finding(
            part, "ok", f"{spec.model}: {spec.base_url}, with the Secret block {spec.api_key_secret}, not asked"
        )
    problem = _problem(f"{spec.base_url.rstrip('/')}/models", spec.api_key())
    if problem is None:
        return Finding(part, "ok", f"{spec.model}: {spec.base_url} answers")
    remedy = "start it, or correct the run file"
    if problem == REFUSED:
        key = spec.api_key_env
        remedy = f"correct the key in {key}" if key else "name the variable that holds its key as api_key_env"
    return Finding(part, "missing", f"{spec.model}: {spec.base_url} {problem}", remedy)


def _command(part: str, spec: "EndpointSpec", program: str) -> Finding:
    if program != INTERPRETER and shutil.which(program) is None:
        return Finding(part, "missing", f"{spec.model}: there is no program {program!r}", f"install {program}")
    return Finding(part, "ok", f"{spec.model}: started when it is needed, by {program}")


def _problem(url: str, key: str | None) -> str | None:
    """Return None where the server answers, else what it did instead. A 404 is an answer: not all list their models."""
    request = Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})  # noqa: S310 - http(s) by its spec
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

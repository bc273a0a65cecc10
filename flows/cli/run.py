"""``lema run``, ``lema sweep``, ``lema resume``: a run file, from questions to report, on a real Prefect server."""

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.console import Verbosity, console, notice
from lema_core.system import stopping

if TYPE_CHECKING:
    from lema_core.run.spec import RunSpec


ROOT_VARIABLE = "LEMA_ROOT"


def _complete_run_file(incomplete: str) -> list[str]:
    """Return what the shell may complete: bundled names and run files of the working directory."""
    from lema_core.run.bundled import bundled_runs

    names = [*bundled_runs(), *map(str, Path().glob("*.toml"))]
    return sorted(name for name in names if name.startswith(incomplete))


RunFile = Annotated[
    Path,
    typer.Argument(
        metavar="RUN.toml",
        help="A run file, or the name of a bundled one: demo, smoke, ...; `lema init` writes one.",
        autocompletion=_complete_run_file,
    ),
]
Root = Annotated[
    str,
    typer.Option(
        help="Where artifacts and the ledger lie: a folder or any fsspec URL (s3://...).", envvar=ROOT_VARIABLE
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Change an option of the run file: section.option=value. Repeatable.")
]


def run(
    run_file: RunFile,
    root: Root = ".lema",
    settings: Settings = None,
) -> None:
    """Run everything a run file asks for, and print the result and the report's place.

    What is there already is not made again: run the same command twice and the second time sends no request and trains
    nothing. After a crash or a kill, the same command goes on where it stopped. Without PREFECT_API_URL, a Prefect
    server is started on loopback so that you can watch the run; `lema ui stop` ends it.
    """
    from lema_core.run.files import read_run_file

    # A run trains the arms of [mixture]; its record decides whether it is resumed as a sweep.
    execute(read_run_file(run_file, settings or ()).model_copy(update={"ablation": None}), root)


def sweep(
    run_file: RunFile,
    root: Root = ".lema",
    settings: Settings = None,
) -> None:
    """Fine-tune and compare arms x seeds x base models x settings, as [ablation] of a run file says.

    Data are collected once a setting. A cell that fails stops no other: the table has the rest, and the same command
    (or `lema resume`) makes only what is missing. `lema plan` shows what a sweep would make and ask for.
    """
    from lema_core.ablation.specs import AblationSpec
    from lema_core.run.files import read_run_file

    spec = read_run_file(run_file, settings or ())
    execute(spec.model_copy(update={"ablation": spec.ablation or AblationSpec()}), root)


def resume(
    name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's name; by default the newest unfinished one.")
    ] = None,
    root: Root = ".lema",
    remake_failed: Annotated[
        bool,
        typer.Option(
            "--remake-failed",
            help="Make artifacts in which requests failed again, and all that was made from them; name the run.",
        ),
    ] = False,
) -> None:
    """Continue a run or a sweep that failed or was killed, with the settings it was started with.

    Finished stages and shards stay as they are, and every completion in the ledger is used: only what is missing is
    asked for. With --remake-failed finished stages that hold failed requests as rejected rows are made again, also of a
    run that has completed: the failed requests are asked again, the others come from the ledger. What was there is kept
    in the folder `replaced` of the root. Models that were trained on such rows are trained again.
    """
    from lema_core.errors import ConfigError
    from lema_core.run.records import find_unfinished
    from lema_core.run.remaking import find_lossy_of_run, set_aside_failed

    if remake_failed and name is None:
        raise ConfigError("--remake-failed needs the name of a run: lema resume RUN --remake-failed")
    spec = find_unfinished(root, name)
    if remake_failed:
        aside = set_aside_failed(spec, root)
        names = ", ".join(dict.fromkeys(ref.stage for ref in aside))
        console.print(f"{len(aside)} artifacts are made again: {names}" if aside else "no artifact has failed requests")
    else:
        for artifact in find_lossy_of_run(spec, root):
            console.print(
                f"requests failed in {artifact}. To ask for them again: lema resume {spec.name} --remake-failed",
                markup=False,
            )
    execute(spec, root)


def seconds_since_start() -> float:
    """Return how long this process has lived: what a user waited for, imports and checks included."""
    import psutil

    return max(0.0, time.time() - float(psutil.Process().create_time()))


def execute(spec: "RunSpec", root: str) -> None:
    """Check a spec, run it on a Prefect server with progress bars, and print what came out."""
    from flows.local_stack.server import ensure_server, login_url
    from flows.preflight import preflight
    from lema_core.run.own_tasks import describe_own_tasks

    for line in describe_own_tasks(spec):
        console.print(line, markup=False, highlight=False)
    stopping.run(preflight(spec, root))
    api = ensure_server()
    notice(f"Prefect UI: {login_url(api, 'runs')}")
    # All logs go to the server; the terminal shows bars, and at the end one message. Prefect reads its settings when
    # it is imported: only now.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if Verbosity.verbose else "CRITICAL")
    # One line per event that a stopped server did not accept: the run reports it once.
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    # As the standard library's manual recommends for production: logging errors are not printed.
    logging.raiseExceptions = False
    from flows.cancelling import run_cancellable
    from flows.cli.print_results import progress_bars, show_run, show_sweep
    from flows.lema import lema
    from flows.sweep import ablation
    from lema_core.run.records import record_run

    with record_run(spec, root), progress_bars():
        made = stopping.run(run_cancellable(ablation if spec.ablation else lema, spec, root))
    show = show_sweep if spec.ablation else show_run
    show(console, spec, root, made, seconds_since_start())

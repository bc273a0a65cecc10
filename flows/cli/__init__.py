"""The command line. Command modules import what they need when they run, so that ``lema --help`` is quick."""

from lema_core.system.early_signals import end_on_signals

with end_on_signals():
    import os
    from collections.abc import Callable
    from pathlib import Path
    from typing import Annotated, Any

    import typer

    from flows.cli.complete import complete
    from flows.cli.console import exit_on_error, set_verbosity
    from flows.cli.doctor import doctor
    from flows.cli.evaluate import evaluate
    from flows.cli.export import explain, export
    from flows.cli.init import init
    from flows.cli.ledger import ledger_app
    from flows.cli.plan import options, plan
    from flows.cli.rate import rate
    from flows.cli.run import resume, run, sweep
    from flows.cli.runs import runs
    from flows.cli.simulate import simulate
    from flows.cli.stack import deploy, down, serve, ui_app, up, work
    from flows.cli.verify import verify
    from lema_core.errors import ConfigError
    from lema_core.system import stopping
    from lema_core.system.loopback import keep_loopback_direct
    from lema_core.system.redaction import disable_core_dumps


class _App(typer.Typer):
    """The command line as a program: once a command has ended, the process does so too."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            with end_on_signals():
                return super().__call__(*args, **kwargs)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(bool(end.code))
            stopping.end_within(stopping.EXIT_AFTER_ERROR_S if status else stopping.EXIT_S, status)
            stopping.end_process(status)


app = _App(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",  # in rich's own markup [section] of a run file would vanish
    help=(
        "Teach language models from their mistakes (LeMa, arXiv 2310.20689): sample reasoning paths, find the wrong "
        "step, correct it, fine-tune, measure. Start with `lema run demo`, or `lema init mine` for your own questions."
    ),
)
GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Begin": (init, doctor, plan, options),
    "Run": (run, sweep, resume, runs),
    "Look at what was made": (evaluate, explain, export, rate),
    "Single parts": (verify, complete, simulate),
    "Prefect's server, deployments and worker": (up, down, deploy, serve, work),
}
COMMANDS = tuple(command for commands in GROUPS.values() for command in commands)
for title, commands in GROUPS.items():
    for command in commands:
        name = "worker" if command is work else command.__name__
        app.command(name, rich_help_panel=title)(exit_on_error(command))


def _show_version(wanted: bool) -> None:
    if wanted:
        from lema_core import __version__

        typer.echo(f"lema {__version__}")
        raise typer.Exit


@app.callback()
@exit_on_error
def _prepare(
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what LeMa does, on the error stream.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
) -> None:
    disable_core_dumps()
    _read_dotenv(Path(".env"))
    keep_loopback_direct()  # behind the file, which may name a proxy
    set_verbosity(quiet=quiet, verbose=verbose)


def _read_dotenv(file: Path) -> None:
    """Set the environment variables that a file of the working directory names and that are not set yet.

    Raises:
        ConfigError: the file cannot be read as text.
    """
    if not file.is_file():
        return
    from dotenv import dotenv_values

    try:
        found = dotenv_values(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}): expected UTF-8 lines NAME=value") from None
    for name, value in found.items():
        if value is not None:
            os.environ.setdefault(name, value)


app.add_typer(ledger_app, name="ledger", rich_help_panel="Look at what was made")
app.add_typer(ui_app, name="ui", rich_help_panel="Prefect's server, deployments and worker")

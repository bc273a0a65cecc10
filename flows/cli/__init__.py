"""The command line. Command modules import what they need when they run, so that ``lema --help`` is quick."""

from lema_core.system.early_signals import end_on_signals

with end_on_signals():
    from typing import Annotated, Any

    import typer

    from flows.cli.complete import complete
    from flows.cli.console import exit_on_error
    from flows.cli.doctor import doctor
    from flows.cli.evaluate import evaluate
    from flows.cli.export import explain, export
    from flows.cli.init import init
    from flows.cli.ledger import ledger_app
    from flows.cli.plan import options, plan
    from flows.cli.rate import rate
    from flows.cli.run import resume, run, sweep
    from flows.cli.simulate import simulate
    from flows.cli.stack import deploy, down, serve, ui_app, up, work
    from flows.cli.verify import verify
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
COMMANDS = (
    *(init, run, sweep, plan, options, resume, explain, evaluate, export, verify, complete, simulate, rate, doctor),
    *(up, down, deploy, serve),
)
for command in COMMANDS:
    app.command(command.__name__)(exit_on_error(command))
app.command("worker")(exit_on_error(work))


def _show_version(wanted: bool) -> None:
    if wanted:
        from lema_core import __version__

        typer.echo(f"lema {__version__}")
        raise typer.Exit


@app.callback()
def _protect(
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    disable_core_dumps()
    keep_loopback_direct()


app.add_typer(ledger_app, name="ledger")
app.add_typer(ui_app, name="ui")

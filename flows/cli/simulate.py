"""``lema simulate``: an OpenAI-compatible endpoint that needs no model."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def simulate(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 8123,
    questions: Annotated[
        list[Path] | None,
        typer.Option(help="Questions with rationales: a file or a folder of Parquet parts. Repeatable."),
    ] = None,
    replay: Annotated[
        list[Path] | None,
        typer.Option(help="Recorded solutions, such as GSM8K's example_model_solutions.jsonl. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed makes other answers.")] = 0,
    error_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the simulated student's paths that are wrong.")
    ] = 0.5,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="name=value, such as latency_s=0.05, requests_per_second=100, server_error=0.1. Repeatable."),
    ] = None,
    rules: Annotated[
        Literal["openai-reasoning", "claude", "gemini", "qwen-thinking", "llamacpp"] | None,
        typer.Option(help="Refuse and ignore what this vendor or server does, in its own words."),
    ] = None,
) -> None:
    """Serve a simulated OpenAI-compatible endpoint on 127.0.0.1 until Ctrl-C.

    Models: replay/NAME (recorded solutions), reference-corrector (deterministic corrections from gold rationales),
    simulated-student (right and wrong paths from gold rationales), simulated-teacher, fixed. None of them is a language
    model: they are for trying a run file without a key, for tests and for load tests.

    GET /stats counts hits, payments, what was paid twice and requests in flight; POST /reset starts anew; POST /faults
    changes what goes wrong while it runs. Both POSTs need the control token that is printed, as Authorization: Bearer
    TOKEN; LEMA_SIMULATED_TOKEN sets another one. Pages of web sites are refused everything.

    Example: lema simulate --questions data/test.jsonl --replay data/example_model_solutions.jsonl
    """
    from flows.cli.console import console
    from lema_core.llm.simulated import Library, SimulatedEndpoint, parse_faults, serve

    library = Library.read(questions or (), replay or ())
    endpoint = SimulatedEndpoint(
        library, faults=parse_faults(fault or ()), seed=seed, error_rate=error_rate, port=port, rules=rules
    )

    def started(running: SimulatedEndpoint) -> None:
        console.print(f"simulated endpoint at {running.url} with {len(library.problems)} questions")
        console.print(f"models: {', '.join(running.models.names())}")
        console.print(f"control token: {running.control_token}", markup=False)

    serve(endpoint, started)

"""``lema evaluate``: the accuracy of any endpoint on any held-out questions, alone or against another evaluation."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.console import console, notice, notices_on_stderr, print_json
from flows.cli.run import AsJson, Root, Settings
from lema_core.system import stopping

if TYPE_CHECKING:
    from lema_core.artifacts import ArtifactRef
    from lema_core.run.single_evaluation import Measured
    from lema_core.run.spec import RunSpec


def evaluate(
    questions: Annotated[
        list[str],
        typer.Argument(
            metavar="QUESTIONS|TASK|RUN.toml",
            help="Files of questions and names of tasks (their test parts), one or several; or a run file.",
        ),
    ],
    model: Annotated[str | None, typer.Option(help="The model's name at the endpoint.")] = None,
    base_url: Annotated[
        list[str] | None,
        typer.Option(
            help="An OpenAI-compatible endpoint, as http://127.0.0.1:8000/v1; given again for each further server of "
            "the same model."
        ),
    ] = None,
    command: Annotated[
        str | None, typer.Option(help="Instead of a URL: a server to start, with {python}, {model} and {port}.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The questions' task, where their fields do not show it.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="few_shot (four worked examples) or zero_shot.", show_default="few_shot")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Also sample this many answers per question, for maj@k.")] = None,
    pass_at: Annotated[
        list[int] | None,
        typer.Option(min=1, help="A k of pass@k; may be repeated.", show_default="powers of two up to --samples"),
    ] = None,
    two_turns: Annotated[
        bool, typer.Option("--two-turns", help="Also show the model its answers and ask it to check and correct them.")
    ] = False,
    temperature: Annotated[float | None, typer.Option(help="Of the sampled answers.", show_default="0.7")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of one answer.", show_default="2048")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first N questions of each.")] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Another evaluation to compare with, item by item: its folder or fingerprint. Of several test sets "
            "one each, in any order."
        ),
    ] = None,
    identity: Annotated[str | None, typer.Option(help="What answers, if the model's name does not say it.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Name of the environment variable that holds the key.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(help="Most requests in flight at a time.")] = None,
    max_failed: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="The largest share of requests that may fail and count as not right.", show_default="0.2"
        ),
    ] = None,
    remake_failed: Annotated[
        bool, typer.Option("--remake-failed", help="Ask again for what failed in an evaluation that is there.")
    ] = False,
    root: Root = ".lema",
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Score a model: pass@1 with its interval, with --samples maj@k and pass@k, the difference to another evaluation.

    The judged answers are an artifact under the root: the same command again asks nothing. LeMa's published evaluation
    files (rows with `prompt`) are sent word for word, so that its released checkpoints can be scored; serve those with
    a chat template that adds nothing to the message. Where the model answers nothing, or more requests fail than
    --max-failed, nothing is scored: the command ends with the endpoint's own words and exit status 1.

    Example: lema evaluate gsm8k_test.jsonl --base-url http://127.0.0.1:8000/v1 --model lema-70b --against 3f9c2a71
    """
    endpoint = _without_none(
        model=model, base_url=base_url or None, command=command, identity=identity, api_key_env=api_key_env,
        concurrency=concurrency,
    )  # fmt: skip
    asking = _without_none(
        base_prompt=prompt, samples=samples, pass_at=pass_at or None, two_turns=two_turns or None,
        temperature=temperature, max_tokens=max_tokens,
    )  # fmt: skip
    run = _run_to_measure(questions, task, limit, settings or (), asking, endpoint)
    if max_failed is not None:
        run = run.model_copy(update={"runtime": run.runtime.model_copy(update={"max_failed": max_failed})})
    with notices_on_stderr() if as_json else nullcontext():
        if remake_failed:
            _set_aside(run, root)
        others = [_find_evaluation(run, root, name) for name in against or ()]
        measured = _measure(run, root)
    from flows.cli.print_results import evaluation_document, show_evaluation

    if as_json:
        print_json(evaluation_document(run, root, measured, others))
        return

    show_evaluation(console, run, root, measured, others)


def _run_to_measure(
    questions: Sequence[str],
    task: str | None,
    limit: int | None,
    settings: Sequence[str],
    asking: Mapping[str, Any],
    endpoint: Mapping[str, Any],
) -> "RunSpec":
    """Return the evaluation of a run file, or of files of questions, with what the command line changes.

    Raises:
        ConfigError: words that do not go together.
    """
    from lema_core.errors import ConfigError
    from lema_core.run.single_evaluation import run_of_file, run_of_questions

    run_files = [name for name in questions if name.endswith(".toml")]
    if not run_files:
        if settings:
            raise ConfigError(f"--set changes options of a run file, and {questions[0]} is none")
        return run_of_questions(questions, task, limit, asking, endpoint)
    if len(questions) > 1:
        raise ConfigError(f"{run_files[0]} is a run file and says what is asked: name it alone")
    if task:
        raise ConfigError("a run file says its task: change it with --set test_questions.task=...")
    run = run_of_file(Path(questions[0]), settings, asking, endpoint)
    return _limited(run, limit) if limit else run


def _limited(run: "RunSpec", limit: int) -> "RunSpec":
    """Return a run that asks only the first ``limit`` questions of each test set."""
    asked = run.test_questions
    if isinstance(asked, tuple):
        fewer = tuple(spec.model_copy(update={"limit": limit}) for spec in asked)
        return run.model_copy(update={"test_questions": fewer})
    return run.model_copy(update={"test_questions": asked and asked.model_copy(update={"limit": limit})})


def _find_evaluation(run: "RunSpec", root: str, name: str) -> "ArtifactRef":
    """Return the published evaluation that a folder or the beginning of a fingerprint names."""
    from lema_core.artifacts import ArtifactRef, Store
    from lema_core.errors import ConfigError
    from lema_core.run.spec import RunContext

    store, wanted = Store(RunContext.of(run, root).root), name.rstrip("/").rpartition("/")[2]
    published = [manifest.fingerprint for manifest in store.manifests() if manifest.stage == "evaluation"]
    found = [fingerprint for fingerprint in published if fingerprint.startswith(wanted)]
    if len(found) != 1:
        known = ", ".join(fingerprint[:12] for fingerprint in published) or "none"
        raise ConfigError(f"--against {name}: {len(found)} evaluations under {root} are called so; there are {known}")
    return ArtifactRef("evaluation", found[0])


def _without_none(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _set_aside(run: "RunSpec", root: str) -> None:
    """Set aside an evaluation with failed requests, so that they are sent again."""
    from lema_core.artifacts import Store
    from lema_core.run.remaking import find_lossy, set_aside_derived
    from lema_core.run.single_evaluation import already_there
    from lema_core.run.spec import RunContext

    runtime = RunContext.of(run, root)
    there = already_there(run, root)
    refs = [ref for answers in (there or {}).values() for ref in answers]
    aside = set_aside_derived(root, runtime, [artifact.ref for artifact in find_lossy(Store(runtime.root), refs)])
    console.print(f"{len(aside)} artifacts are made again" if aside else "no request failed in this evaluation")


def _measure(run: "RunSpec", root: str) -> "dict[str, Measured]":
    """Return the evaluation by test set; a Prefect server is started only where something is left to ask."""
    from flows.local_stack.server import ensure_server, login_url
    from flows.preflight import all_answer
    from lema_core.questions import read_questions
    from lema_core.run.single_evaluation import GO_ON, already_there, asked_for

    if there := already_there(run, root):
        from lema_core.artifacts import Store
        from lema_core.run.spec import RunContext
        from tasks.run_stage import check_answered

        runtime = RunContext.of(run, root).model_copy(update={"go_on": GO_ON})
        for ref in (ref for answers in there.values() for ref in answers):
            check_answered(runtime, Store(runtime.root).manifest(ref))
        return there
    sources, _, name = asked_for(run)
    # An unusable question is reported now, before a server is started or anything is paid.
    for source in sources.values():
        for _ in read_questions(source):
            pass
    stopping.run(all_answer({run.endpoint(name)}))
    notice(f"Prefect UI: {login_url(ensure_server(), 'runs')}")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from flows.cancelling import run_cancellable
    from flows.cli.print_results import progress_bars
    from flows.evaluate import evaluate as evaluate_flow

    with progress_bars():
        measured: dict[str, Measured] = stopping.run(run_cancellable(evaluate_flow, run, root, GO_ON))
        return measured

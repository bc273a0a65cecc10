"""What the terminal shows: bars and figures while a command runs, and at its end the funnel, the tables, the scores."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from flows.cli.console import Verbosity, console, errors, notice
from flows.sweep import Sweep
from lema_core.artifacts import ArtifactRef, Store
from lema_core.errors import DataError
from lema_core.evaluation import statistics
from lema_core.evaluation.accuracy import Evaluation, compare_models, score_votes
from lema_core.evaluation.self_correction import TurnScore, score_turns
from lema_core.evaluation.several_sets import Overall, compare_on_sets
from lema_core.llm.progress import describe_submitted, figures
from lema_core.records import JudgedPath
from lema_core.report.data import SetFigures, count_funnel, count_trained, load_test_sets, load_usage
from lema_core.report.prose import (
    describe_overall,
    describe_yield,
    format_interval,
    format_p_value,
    format_percent,
    format_points,
)
from lema_core.report.sweeps import summarize_sweep, terminal_tables
from lema_core.run.artifacts import QuestionRound, RunArtifacts
from lema_core.run.single_evaluation import Measured, asked_for
from lema_core.run.spec import RunContext, RunSpec
from lema_core.stages.failed_requests import failures_of
from lema_core.stages.report import HTML
from lema_core.stages.unusable_answers import shown_reasons
from lema_core.training.chat_format import served_prompt
from lema_core.training.lengths import TrainedOn

if TYPE_CHECKING:
    from lema_core.llm import Engine, Snapshot


@contextmanager
def progress_bars() -> Iterator[None]:
    """Draw one bar per stage while the block runs; without a terminal, print one line per stage at its end."""
    from tasks.progress import listen

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(30),
        TimeElapsedColumn(),
        TextColumn("{task.fields[line]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal or Verbosity.quiet) as progress:
        running: dict[str, TaskID] = {}
        begun: dict[str, float] = {}
        figures_of: dict[str, str] = {}

        def update(stage: str, share: float, line: str) -> None:
            if stage not in running:
                running[stage] = progress.add_task(stage, total=1.0, line="")
                begun[stage] = time.monotonic()
            progress.update(running[stage], completed=share)
            if line:
                figures_of[stage] = line
                progress.update(running[stage], line=line)
            if share >= 1.0 and not line:
                # The next run of this stage (another arm, another student) is a bar of its own.
                del running[stage]
                if not console.is_terminal:
                    seconds = time.monotonic() - begun[stage]
                    notice(escape(f"  {stage}: {figures_of.pop(stage, 'done')}, {seconds:.0f} s"))

        with listen(update, partial(console.print, markup=False)):
            yield


REFRESH_S, LINE_S = 0.5, 10.0


@contextmanager
def live_figures(engine: "Engine") -> Iterator[None]:
    """Show the engine's progress while the block runs, on the error stream. Needs a running event loop.

    A block that is interrupted leaves batches at the endpoint: then say how many requests, and how to collect them.
    """
    show = _display if errors.is_terminal else _lines
    task = asyncio.get_running_loop().create_task(show(engine))
    try:
        yield
    except BaseException:
        if submitted := describe_submitted(engine.snapshot()):
            errors.print(submitted, markup=False)
        raise
    finally:
        task.cancel()


async def _display(engine: "Engine") -> None:
    from rich.live import Live

    with Live(console=errors, auto_refresh=False, transient=True) as display:
        while True:
            display.update(figures_table(engine.snapshot()), refresh=True)
            await asyncio.sleep(REFRESH_S)


async def _lines(engine: "Engine") -> None:
    while True:
        await asyncio.sleep(LINE_S)
        errors.print(figures_line(engine.snapshot()))


def figures_line(now: "Snapshot") -> str:
    """Return the figures in one line, for logs."""
    return ", ".join(f"{name} {value}" for name, value in figures(now).items())


def figures_table(now: "Snapshot") -> Table:
    """Return the figures as a table of two rows."""
    shown = figures(now)
    grid = Table(*shown, box=None, header_style="dim", padding=(0, 2, 0, 0))
    grid.add_row(*shown.values())
    return grid


def show_run(console: Console, run: RunSpec, root: str, artifacts: RunArtifacts, seconds: float) -> None:
    """Print the figures of a run and the report's place."""
    store = Store(RunContext.of(run, root).root)
    if funnel := count_funnel(store, run, artifacts):
        console.print(
            f"{funnel.questions} questions, {funnel.paths} reasoning paths, {funnel.mistakes} mistakes, "
            f"{funnel.accepted} accepted corrections"
        )
        kept = funnel.accepted + sum(_accepted(store, collection) for collection in artifacts.rounds[1:])
        if cost := describe_yield(list(load_usage(store, run, artifacts)), kept):
            console.print(cost, markup=False)
    for line in list_rejections(store, artifacts):
        console.print(line, markup=False)
    if trained := count_trained(store, artifacts):
        console.print(trained_table(trained))
    figures, overall = load_test_sets(store, run, artifacts)
    for measured in figures:
        console.print(accuracy_table(measured, named=len(figures) > 1))
        if measured.vote_scores:
            console.print(samples_table(measured, named=len(figures) > 1))
        if measured.turns:
            console.print(turns_table(measured.turns, f" on {measured.name}" if len(figures) > 1 else ""))
    if overall:
        console.print(sets_table(figures, overall))
        console.print(describe_overall(overall), markup=False)
    if failed := count_failed_requests(store, artifacts):
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(failed.items()))
        console.print(
            f"{failed.total()} requests failed ({reasons}): rejected rows, in an evaluation not right. To ask for them "
            f"again: lema resume {run.name}{'' if root == '.lema' else f' --root {root}'} --remake-failed",
            markup=False,
        )
    if artifacts.report:
        console.print(f"Report: {store.folder(artifacts.report)}/{HTML}")
    console.print(f"Done in {seconds:.0f} s")


def trained_table(trained: Mapping[str, TrainedOn]) -> Table:
    """Return what each arm's model was trained on; tokens over all steps."""
    table = Table(title="Trained on", header_style="bold", box=None, padding=(0, 2))
    for column in ("arm", "steps", "examples", "target tokens", "input tokens"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, counted in trained.items():
        numbers = (counted.steps, counted.examples, counted.target_tokens, counted.input_tokens)
        table.add_row(arm, *(f"{number:,}" for number in numbers))
    return table


def accuracy_table(measured: SetFigures, *, named: bool) -> Table:
    """Return the models' accuracies on a test set, each with its difference to the base model."""
    evaluation = measured.evaluation
    held_out = f"{measured.name} ({evaluation.n} questions)" if named else f"{evaluation.n} held-out questions"
    table = Table(title=f"Accuracy on {held_out}", header_style="bold", box=None, padding=(0, 2))
    columns = (
        "model",
        "accuracy",
        "95 % interval",
        "no false step",
        "difference to base",
        "95 % interval",
        "McNemar p",
    )
    for column in columns if evaluation.base else columns[:4]:
        table.add_column(column, justify="left" if column == "model" else "right")
    for score in evaluation.scores:
        cells = [
            score.name,
            format_percent(score.accuracy.value, evaluation.n),
            format_interval(score.accuracy, evaluation.n),
            format_percent(score.strict.value, evaluation.n) if score.strict else "",
        ]
        compared = evaluation.comparison(score.name, evaluation.base)
        if compared:
            difference = compared.difference
            cells += [
                format_points(difference.value, evaluation.n),
                format_interval(difference, evaluation.n, signed=True),
            ]
            cells.append(format_p_value(difference.p_value))
        table.add_row(*cells)
    return table


def samples_table(measured: SetFigures, *, named: bool) -> Table:
    """Return maj@k, where answers can be compared, and pass@k of each model on a test set."""
    first, n = measured.vote_scores[0], measured.evaluation.n
    where = f" on {measured.name}" if named else ""
    table = Table(title=f"{first.k} samples a question{where}", header_style="bold", box=None, padding=(0, 2))
    majority = [f"maj@{first.k}"] if first.accuracy else []
    for column in ("model", *majority, *(f"pass@{passed.k}" for passed in first.passes)):
        table.add_column(column, justify="left" if column == "model" else "right")
    for vote in measured.vote_scores:
        shares = [*([vote.accuracy] if vote.accuracy else []), *(passed.accuracy for passed in vote.passes)]
        table.add_row(vote.name, *(f"{format_percent(a.value, n)} ({format_interval(a, n)})" for a in shares))
    return table


def turns_table(turns: Sequence[TurnScore], where: str) -> Table:
    """Return each model's accuracy before and after it checked its own answers."""
    title = f"Self-correction{where}: the model checks its own answer"
    table = Table(title=title, header_style="bold", box=None, padding=(0, 2))
    columns = ("turn one", "turn two", "wrong to right", "right to wrong", "difference", "95 % interval", "McNemar p")
    for column in ("model", *columns):
        table.add_column(column, justify="left" if column == "model" else "right")
    for turn in turns:
        difference, n = turn.difference, turn.difference.n
        table.add_row(
            turn.name, format_percent(turn.first.value, n), format_percent(turn.second.value, n),
            str(difference.only_arm), str(difference.only_reference), format_points(difference.value, n),
            format_interval(difference, n, signed=True), format_p_value(difference.p_value),
        )  # fmt: skip
    return table


def sets_table(figures: Sequence[SetFigures], overall: Overall) -> Table:
    """Return the models' accuracies with a column per test set, and their average."""
    table = Table(title="Accuracy on each test set", header_style="bold", box=None, padding=(0, 2))
    base = figures[0].evaluation.base
    columns = [*(measured.name for measured in figures), "average", "95 % interval"]
    columns += ["difference to base", "95 % interval", "pooled p"] if base else []
    for column in ("model", *columns):
        table.add_column(column, justify="left" if column == "model" else "right")
    for averaged in overall.scores:
        cells = [format_percent(m.evaluation.score(averaged.name).accuracy.value, m.evaluation.n) for m in figures]
        total = overall.n
        cells += [format_percent(averaged.accuracy.value, total), format_interval(averaged.accuracy, total)]
        if compared := overall.comparison(averaged.name, base):
            cells += [
                format_points(compared.difference.value, total),
                format_interval(compared.difference, total, signed=True),
                format_p_value(compared.p_value),
            ]
        table.add_row(averaged.name, *cells)
    return table


def list_rejections(store: Store, artifacts: RunArtifacts) -> Iterator[str]:
    """Yield, by stage that asked a model, the reasons of more than a few per cent of its rejected rows."""
    for collection in artifacts.rounds:
        for ref in (*collection.made_by[:1], *collection.reasoning_paths, *collection.corrections.values()):
            manifest = store.manifest(ref)
            if shown := shown_reasons(manifest.rows_in, manifest.reasons):
                named = ", ".join(f"{count} {reason}" for reason, count in shown.items())
                yield f"  {collection.label(ref.stage)}: {manifest.rejected} of {manifest.rows_in} rejected ({named})"


def _accepted(store: Store, collection: QuestionRound) -> int:
    return sum(store.manifest(ref).rows_out for ref in collection.corrections.values())


def count_failed_requests(store: Store, artifacts: RunArtifacts) -> Counter[str]:
    """Return how many requests of a run got no answer, by reason: as rejected rows they are in its artifacts."""
    return sum((failures_of(store.manifest(ref)) for ref in dict.fromkeys(artifacts)), Counter[str]())


def show_sweep(console: Console, run: RunSpec, root: str, swept: Sweep, seconds: float) -> None:
    """Print the table of a sweep and the report's place."""
    for table in terminal_tables(swept.table):
        console.print(table)
    console.print(summarize_sweep(swept.table))
    console.print(f"Report: {Store(RunContext.of(run, root).root).folder(swept.report)}/{HTML}")
    console.print(f"Done in {seconds:.0f} s")


OTHER = "the other"


def show_evaluation(
    console: Console, run: RunSpec, root: str, answers: Mapping[str, Measured], others: Sequence[ArtifactRef]
) -> None:
    """Print one model's figures on each test set, and those against the other evaluation of the same questions.

    Raises:
        DataError: an evaluation in ``others`` asked other questions than every test set.
    """
    sources, spec, name = asked_for(run)
    store, model = Store(RunContext.of(run, root).root), run.endpoints[name].model
    compared = _matched(store, answers, others)
    for test_set, measured in answers.items():
        task = sources[test_set].task
        asked = task if test_set == task else f"{test_set}, {task}"
        _show_answers(console, store, model, asked, measured, compared.get(test_set), spec.pass_at)
    if prompt := served_prompt(run.endpoints[name]):
        console.print(f"Prompt: {prompt} (a fixed question in the model's chat template)", markup=False)
    if len(answers) > 1:
        tables = {name: {model: store.rows(one.greedy, JudgedPath)} for name, one in answers.items()}
        _, overall = compare_on_sets(tables, model)
        if overall:
            accuracy, total = overall.scores[0].accuracy, overall.n
            console.print(
                f"Average over the test sets: {format_percent(accuracy.value, total)} "
                f"({format_interval(accuracy, total)})"
            )
            console.print(describe_overall(overall), markup=False)


def evaluation_document(
    run: RunSpec, root: str, answers: Mapping[str, Measured], others: Sequence[ArtifactRef]
) -> dict[str, Any]:
    """Return what `show_evaluation` prints, for other programs: shares with their 95 % intervals, by test set.

    Raises:
        DataError: as `show_evaluation`.
    """
    sources, spec, name = asked_for(run)
    store, model = Store(RunContext.of(run, root).root), run.endpoints[name].model
    compared, sets = _matched(store, answers, others), list[dict[str, Any]]()
    for test_set, measured in answers.items():
        rows, other = store.rows(measured.greedy, JudgedPath), compared.get(test_set)
        theirs = store.rows(other, JudgedPath) if other else None
        found = compare_models(theirs, {model: rows}, OTHER) if theirs else compare_models(rows, {}, model)
        sampled = {model: store.rows(measured.sampled, JudgedPath)} if measured.sampled else None
        votes = score_votes(sampled, model, spec.pass_at) if sampled else ()
        difference = found.comparison(model, OTHER) if other else None
        failed = sum((failures_of(store.manifest(ref)) for ref in measured), Counter[str]())
        score = found.score(model)
        sets.append({
            "test_set": test_set,
            "task": sources[test_set].task,
            "questions": found.n,
            "pass@1": asdict(score.accuracy),
            "verdicts": dict(score.verdicts),
            "failed_requests": dict(failed),
            "votes": [asdict(vote) for vote in votes],
            "against": asdict(difference) if difference else None,
            "answers": store.folder(measured.greedy),
        })  # fmt: skip
    return {"model": model, "test_sets": sets}


def _matched(store: Store, answers: Mapping[str, Measured], others: Sequence[ArtifactRef]) -> dict[str, ArtifactRef]:
    """Return the other evaluation of each test set; with one set and one other they belong together."""
    if len(answers) == 1 and len(others) == 1:
        return dict.fromkeys(answers, others[0])

    def questions_of(ref: ArtifactRef) -> set[str]:
        return {row.question_id for row in store.rows(ref, JudgedPath)}

    asked = {name: questions_of(one.greedy) for name, one in answers.items()}
    found = dict[str, ArtifactRef]()
    for other in others:
        questions = questions_of(other)
        same = [name for name, ids in asked.items() if ids == questions]
        if not same:
            raise DataError(
                f"--against {other.fingerprint[:12]} asked the questions of none of the test sets "
                f"{', '.join(answers)}. Name evaluations of the same questions."
            )
        found |= dict.fromkeys(same, other)
    return found


def _show_answers(
    console: Console,
    store: Store,
    model: str,
    task: str,
    measured: Measured,
    other: ArtifactRef | None,
    pass_at: Sequence[int],
) -> None:
    rows = store.rows(measured.greedy, JudgedPath)
    found = (
        compare_models(store.rows(other, JudgedPath), {model: rows}, OTHER)
        if other
        else compare_models(rows, {}, model)
    )
    console.print(f"{model} on {found.n} questions ({task})", markup=False)
    score, n = found.score(model), found.n
    tally = ", ".join(f"{count} {verdict}" for verdict, count in score.verdicts.items())
    console.print(
        f"  pass@1  {format_percent(score.accuracy.value, n)} ({format_interval(score.accuracy, n)})   {tally}"
    )
    if score.strict:
        console.print(
            f"  strict  {format_percent(score.strict.value, n)} ({format_interval(score.strict, n)})   right, and no "
            "step states false arithmetic"
        )
    _print_failures(console, store, measured)
    if measured.sampled:
        (vote,) = score_votes({model: store.rows(measured.sampled, JudgedPath)}, model, pass_at)
        if vote.accuracy:
            console.print(
                f"  maj@{vote.k}   {format_percent(vote.accuracy.value, n)} ({format_interval(vote.accuracy, n)})"
            )
        for passed in vote.passes:
            shown = f"{format_percent(passed.accuracy.value, n)} ({format_interval(passed.accuracy, n)})"
            console.print(f"  pass@{passed.k}  {shown}   of {vote.k} samples")
    if measured.second:
        first, second = store.rows(measured.greedy, JudgedPath), store.rows(measured.second, JudgedPath)
        console.print(turns_table(score_turns({model: first}, {model: second}), ""))
    if found.levels:
        table = Table(box=None, header_style="bold", padding=(0, 2))
        for column in ("difficulty", "questions", "right", "95 % interval"):
            table.add_column(column, justify="left" if column == "difficulty" else "right")
        for level in found.levels:
            if level.arm == model:
                a = level.accuracy
                table.add_row(level.level, str(a.n), format_percent(a.value, a.n), format_interval(a, a.n))
        console.print(table)
    if other:
        _compare(console, found, store, measured.greedy, other)
    console.print(f"Answers: {store.folder(measured.greedy)}", markup=False)
    if measured.sampled:
        console.print(f"Sampled answers: {store.folder(measured.sampled)}", markup=False)


def _print_failures(console: Console, store: Store, measured: Measured) -> None:
    """Print how many requests failed: the figures count them as not right."""
    failed = sum((failures_of(store.manifest(ref)) for ref in measured), Counter[str]())
    if failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(failed.items()))
        console.print(
            f"  {failed.total()} requests failed ({reasons}) and count as not right; ask for them again with "
            "--remake-failed",
            markup=False,
        )


def _compare(console: Console, found: Evaluation, store: Store, one: ArtifactRef, other: ArtifactRef) -> None:
    (comparison,), n = found.comparisons, found.n
    difference, before = comparison.difference, found.score(OTHER).accuracy
    right = [{row.question_id: row.verdict == "right" for row in store.rows(ref, JudgedPath)} for ref in (other, one)]
    items = sorted(right[0])
    boot = statistics.paired_bootstrap([right[0][i] for i in items], [right[1][i] for i in items])
    console.print(
        f"Against {other.fingerprint[:12]}, which has {format_percent(before.value, n)} ({format_interval(before, n)}):"
    )
    console.print(
        f"  {format_points(difference.value, n)} points ({format_interval(difference, n, signed=True)} by Tango's "
        f"score, {format_interval(boot, n, signed=True)} by paired bootstrap); {difference.only_arm} questions won, "
        f"{difference.only_reference} lost; McNemar p {format_p_value(difference.p_value)}"
    )
    if not comparison.shown:
        reach = (
            f"{n} questions show a true difference of {100 * found.detectable:.0f} points four times in five"
            if found.detectable < 1
            else "Too few questions are answered differently to say what difference would be seen"
        )
        console.print(f"  This test cannot tell them apart. {reach}.")

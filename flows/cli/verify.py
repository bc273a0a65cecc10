"""``lema verify``: compare final answers by the matcher that judges reasoning paths, and see why it decided so."""

from collections import Counter
from contextlib import AsyncExitStack, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.console import notices_on_stderr, print_json
from flows.cli.run import ROOT_VARIABLE, AsJson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from lema_core.answers import MatchPolicy
    from lema_core.answers.judge import Verification
    from lema_core.llm import EndpointSpec
    from lema_core.questions.tasks.task import Row, Task
    from lema_core.run.spec import RunSpec
    from lema_core.scoring.pool import Scored, TextToScore

FOUND = ("verdict", "layer", "ground")
"""What is written beside a row's own columns."""
BATCH = 1_000
SCORED_AT_ONCE = 512
EQUAL, RIGHT = ("equal", "different", "unknown"), ("right", "wrong", "unknown")
"""Verdicts of the matcher, and of a scorer: yes, no, undecided."""
WIDTH = 60
MAX_NOTES = 5
"""Kinds of notes on how rows were read that are printed."""


def verify(
    cases: Annotated[
        str | None,
        typer.Argument(help="File or URL of JSONL, CSV or Parquet with `gold` and `pred`, perhaps `equal`."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the rows with verdict, layer and ground here.")] = None,
    family: Annotated[
        str, typer.Option(help="numeric, latex, choice, text, or a scorer's entry point; for rows that name none.")
    ] = "latex",
    why: Annotated[tuple[str, str] | None, typer.Option(help="Explain one pair: GOLD PRED.")] = None,
    show: Annotated[int, typer.Option(help="How many disagreements to show.")] = 20,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="What answers may differ in, as NAME=VALUE: units=ignore, names=ignore, ...; see docs/answers.md."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="A task of your own with a scorer, which judges `pred` in the place of the matcher."),
    ] = None,
    run_file: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="RUN.toml", help="The run file with the endpoint of the scorer's judge, and its budget."
        ),
    ] = None,
    root: Annotated[str, typer.Option(help="With --run: where its ledger lies.", envvar=ROOT_VARIABLE)] = ".lema",
    check: Annotated[
        bool, typer.Option("--check", help="Exit with status 1 where a verdict disagrees with its label `equal`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    r"""Compare gold answers with predicted ones, each a bare answer or a whole solution.

    A line is a JSON object with `gold` and `pred`; `family` (numeric, latex, choice, text) or `task` (gsm8k, math,
    csqa, ...) selects how answers are read, `candidates` are the choices of a multiple-choice question, and `equal`
    says what is right, so that the agreement can be counted. The verdict is equal, different or unknown; unknown is
    never counted as equal. A scorer's code is loaded only for `--family`, never because a line names it.

    With `--task my_task.py` the task's scorer says right, wrong or unknown of each `pred`, from `question` and `gold`.
    A judge that it asks needs `--run`: its requests go through that run's ledger and budget.

        lema verify cases.jsonl --out verdicts.jsonl

        lema verify cases.jsonl --check

        lema verify cases.jsonl --task my_task.py --run my_run.toml

        lema verify --why '\frac{1}{2}' 'The answer is 50\%.'
    """
    from flows.cli.console import SafeConsole

    console = SafeConsole()
    checked, chosen = _family(family), _policy(policy or [])
    if why is not None:
        _explain(console, why, checked, chosen, as_json=as_json)
    elif run_file is not None and task is None:
        raise typer.BadParameter("--run gives a scorer's judge its endpoint: name the task with the scorer by --task")
    elif cases is None:
        raise typer.BadParameter("give a file of cases, or --why GOLD PRED to explain one pair")
    elif out is not None and out.resolve() == Path(cases).resolve():
        raise typer.BadParameter(f"--out {out} is the file of cases itself, which it would overwrite; name another one")
    elif task is not None:
        with notices_on_stderr() if as_json else nullcontext():
            found = _score_file(cases, out, task, run_file, root, show)
        _report(console, found, check=check, as_json=as_json)
    else:
        found = _verify_file(cases, out, checked, show, chosen)
        _report(console, found, check=check, as_json=as_json)


@dataclass(slots=True)
class _Found:
    """What came out over all cases."""

    outcomes: tuple[str, str, str]
    """The verdicts, the first of which agrees with a label ``equal: true``."""
    layers: Counter[tuple[str, str]] = field(default_factory=Counter)
    labels: Counter[tuple[bool, str]] = field(default_factory=Counter)
    disagreements: list[tuple[Any, str, str]] = field(default_factory=list)
    """The first ones: row, verdict, layer."""
    notes: Counter[str] = field(default_factory=Counter)
    judge_words: str = ""
    """What the judge said last where it did not answer."""

    def count(self, row: "Row", verdict: str, layer: str, show: int) -> None:
        self.layers[layer, verdict] += 1
        if row.get("equal") is None:
            return
        self.labels[bool(row["equal"]), verdict] += 1
        if bool(row["equal"]) != (verdict == self.outcomes[0]) and len(self.disagreements) < show:
            self.disagreements.append((row, verdict, layer))

    @property
    def agreed(self) -> int:
        return sum(count for (equal, verdict), count in self.labels.items() if equal == (verdict == self.outcomes[0]))


def _report(console: "Console", found: _Found, *, check: bool, as_json: bool) -> None:
    """Print what came out; with ``check``, exit with status 1 where a label disagrees.

    Raises:
        EndpointError: the judge answered nothing.
    """
    from rich.markup import escape

    from lema_core.errors import EndpointError

    if as_json:
        outcomes = Counter[str]()
        for (_, outcome), count in found.layers.items():
            outcomes[outcome] += count
        layers = [{"layer": layer, "verdict": name, "cases": n} for (layer, name), n in sorted(found.layers.items())]
        wrong = [{**row, "verdict": verdict, "layer": layer} for row, verdict, layer in found.disagreements]
        print_json({
            "cases": found.layers.total(), "verdicts": dict(outcomes), "layers": layers,
            "labelled": found.labels.total(), "agreed": found.agreed, "disagreements": wrong,
            "notes": dict(found.notes),
        })  # fmt: skip
    else:
        _print_layers(console, found.layers, found.outcomes)
        for note, count in found.notes.most_common(MAX_NOTES):
            console.print(escape(f"{count} rows: {note}"), highlight=False)
        _print_agreement(console, found.labels, found.disagreements, found.outcomes)
    if found.layers and set(found.layers) == {("judge_failed", "unknown")}:
        raise EndpointError(f"the judge answered for none of {found.layers.total()} texts: {found.judge_words}")
    if check and found.agreed < found.labels.total():
        raise typer.Exit(1)


def _family(name: str) -> str:
    if name not in ("numeric", "latex", "choice", "text") and ":" not in name:
        raise typer.BadParameter(
            f"--family {name}: expected numeric, latex, choice, text or a scorer package.module:object"
        )
    return name


def _policy(settings: list[str]) -> "MatchPolicy":
    """Return the policy of the options; a name or value that does not exist is an error with those that do."""
    from dataclasses import fields, replace
    from typing import get_args, get_type_hints

    from lema_core.answers import MatchPolicy

    policy, kinds = MatchPolicy(), get_type_hints(MatchPolicy)
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in kinds:
            raise typer.BadParameter(f"--policy {setting}: expected one of {', '.join(f.name for f in fields(policy))}")
        values: dict[str, Any] = (
            {"true": True, "false": False} if kinds[name] is bool else {value: value for value in get_args(kinds[name])}
        )
        if text not in values:
            raise typer.BadParameter(f"--policy {setting}: expected {name}={' or '.join(values)}")
        policy = replace(policy, **{name: values[text]})
    return policy


def _explain(console: "Console", pair: tuple[str, str], family: str, policy: "MatchPolicy", *, as_json: bool) -> None:
    from rich.markup import escape

    from lema_core.answers.judge import verify_pair

    result = verify_pair(*pair, family, policy=policy)
    if as_json:
        match, read = result.match, {"gold": result.gold.value, "pred": result.pred.value}
        print_json(read | {"verdict": match.outcome, "layer": match.layer, "ground": match.ground})
        return
    for name, found in (("gold", result.gold), ("pred", result.pred)):
        seen = f"{found.value!r} (cue: {found.cue})" if found.value is not None else f"{found.outcome}: {found.detail}"
        console.print(f"{name:9}{escape(seen)}", highlight=False)
    console.print(f"verdict  {result.match.outcome}", highlight=False)
    console.print(f"layer    {result.match.layer}", highlight=False)
    console.print(f"ground   {escape(result.match.ground)}", highlight=False)


def _verify_file(cases: str, out: Path | None, family: str, show: int, policy: "MatchPolicy") -> _Found:
    from lema_core.questions.sources import read_rows
    from lema_core.system.chunking import chunked

    found = _Found(EQUAL)
    with _writer(out, cases) as write:
        for some in chunked(read_rows(cases), BATCH):
            judged = [(row, _verify_row(place, row, family, policy)) for place, row in some]
            found.notes.update(note for row, _ in judged if (note := _note(row, family)))
            write(
                [
                    {**row, **dict(zip(FOUND, (result.verdict, result.match.layer, result.match.ground), strict=True))}
                    for row, result in judged
                ]
            )
            for row, result in judged:
                found.count(row, result.verdict, result.match.layer, show)
    return found


def _score_file(cases: str, out: Path | None, task: str, run_file: Path | None, root: str, show: int) -> _Found:
    """Judge every case by a task's scorer.

    Raises:
        ConfigError: the task has no scorer, or its judge no endpoint; nothing was asked.
        DataError: a case lacks a field; nothing was asked.
        EndpointError: the judge cannot be asked.
        BudgetExceededError: the run file's budget is used up.
    """
    from lema_core.questions.sources import read_rows
    from lema_core.run.files import read_run_file
    from lema_core.system import stopping

    run = read_run_file(run_file) if run_file else None
    scorer, judge = _scorer_of(task, run, root)
    # All of them, before the first request is paid: a fault in the last line would be found late.
    for place, row in read_rows(cases):
        _text_to_score(place, row)
    found = _Found(RIGHT)

    def take(row: "Row", scored: "Scored") -> None:
        if scored.decided_by == "judge_failed":
            found.judge_words = scored.reason
        found.count(row, scored.verdict, scored.decided_by, show)

    with _writer(out, cases) as write:
        stopping.run(_score_cases(cases, scorer, judge, run, root, write, take))
    return found


def _scorer_of(name: str, run: "RunSpec | None", root: str) -> "tuple[Task, EndpointSpec | None]":
    """Return a task with a scorer, and the endpoint of its judge."""
    from lema_core.artifacts import Store
    from lema_core.errors import ConfigError
    from lema_core.questions import get_task
    from lema_core.run.artifacts import RunArtifacts
    from lema_core.run.endpoints import PreparedEndpoints
    from lema_core.run.spec import RunContext

    task = get_task(name)
    if task.scorer is None:
        raise ConfigError(f"the task {task.name} has no scorer: leave --task out, and the matcher compares the answers")
    if task.judge is None:
        return task, None
    wanted = task.judge.endpoint
    if run is None or wanted not in run.endpoints:
        has = f"; {run.name} has {', '.join(run.endpoints) or 'none'}" if run else ""
        raise ConfigError(
            f"the scorer of {task.name} asks a judge, the endpoint {wanted!r}: name a run file with "
            f"[endpoints.{wanted}] by --run{has}. Nothing was asked"
        )
    judge = PreparedEndpoints(run, Store(RunContext.of(run, root).root), RunArtifacts())[wanted]
    if judge.api_key_secret:
        raise ConfigError(
            f"the key of endpoint {wanted!r} is in a Prefect Secret block, which flows alone read: give it by "
            "api_key_env for this command. Nothing was asked"
        )
    return task, judge


async def _score_cases(
    cases: str,
    task: "Task",
    judge: "EndpointSpec | None",
    run: "RunSpec | None",
    root: str,
    write: "Callable[[list[Row]], object]",
    take: "Callable[[Row, Scored], None]",
) -> None:
    """Score the cases, a chunk at a time; the judge's requests go through the run's ledger and budget."""
    from flows.preflight import all_answer
    from lema_core.llm import Budget, Engine
    from lema_core.llm.endpoints import running
    from lema_core.questions.sources import read_rows
    from lema_core.run.spec import RunContext
    from lema_core.scoring.pool import check_scorer, score_all, scorer_pool
    from lema_core.system.chunking import chunked

    await check_scorer(task)
    async with AsyncExitStack() as opened:
        ask: Any = None
        if judge is not None and run is not None:
            context = RunContext.of(run, root)
            await all_answer([judge])
            live = judge.at(await opened.enter_async_context(running(judge)))
            budget = Budget(dollars=context.budget.usd, tokens=context.budget.tokens)
            engine = await opened.enter_async_context(Engine.open(context.ledger, budget, context.run))
            ask = partial(engine.complete, live)
        await opened.enter_async_context(scorer_pool(task))
        for some in chunked(read_rows(cases), SCORED_AT_ONCE):
            scored = await score_all(task, [_text_to_score(place, row) for place, row in some], ask)
            write(
                [
                    {**row, **dict(zip(FOUND, (found.verdict, found.decided_by, found.reason), strict=True))}
                    for (_, row), found in zip(some, scored, strict=True)
                ]
            )
            for (_, row), found in zip(some, scored, strict=True):
                take(row, found)


def _text_to_score(place: str, row: "Row") -> "TextToScore":
    from lema_core.scoring.pool import TextToScore

    question = _text(row, "question", place) if "question" in row else ""
    return TextToScore(
        question_id=str(row.get("question_id") or row.get("id") or place),
        question=question,
        gold=_text(row, "gold", place),
        text=_text(row, "pred", place),
        candidates=_candidates(row, place),
    )


def _candidates(row: "Row", place: str) -> tuple[str, ...] | None:
    from lema_core.errors import DataError

    choices = row.get("candidates")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)):
        raise DataError(f"{place}: `candidates` is {str(choices)[:60]!r}, expected a list of texts, one a choice")
    return tuple(choices) if choices else None


def _verify_row(place: str, row: "Row", family: str, policy: "MatchPolicy") -> "Verification":
    from lema_core.answers.judge import verify_pair
    from lema_core.answers.results import family_of

    candidates = _candidates(row, place)
    gold, pred = _text(row, "gold", place), _text(row, "pred", place)
    return verify_pair(gold, pred, family_of(row, family), candidates, policy=policy)


def _note(row: "Row", family: str) -> str | None:
    """Return what a user must know about how a case was read, by its fields."""
    from lema_core.answers.results import ignored_family, takes_kind

    ignored = ignored_family(row, family)
    if ignored is not None:
        return f"`family` {ignored[:60]!r} is none of numeric, latex, choice and text, and is ignored"
    if takes_kind(row):
        return f"read as {row['kind']}, for `kind` says so; write `family` if that is meant, or rename the label"
    return None


def _text(row: "Row", name: str, place: str) -> str:
    from lema_core.errors import DataError
    from lema_core.questions.tasks.task import shown_fields

    if name not in row:
        raise DataError(f"{place}: no field {name!r}; it has {shown_fields(row)}")
    return "" if row[name] is None else str(row[name])


@contextmanager
def _writer(out: Path | None, cases: str) -> "Iterator[Callable[[list[Row]], object]]":
    """Yield a writer of rows to JSONL or Parquet, which does nothing without a path; the file appears at the end."""
    import json

    from lema_core.artifacts.files import atomic_local

    if out is None:
        yield lambda _: None
        return
    with atomic_local(out) as local:
        if out.suffix == ".parquet":
            with _parquet(local, out, cases) as write:
                yield write
        else:
            with local.open("w", encoding="utf-8") as lines:
                yield lambda rows: lines.writelines(json.dumps(row, default=str) + "\n" for row in rows)


@contextmanager
def _parquet(local: Path, out: Path, cases: str) -> "Iterator[Callable[[list[Row]], object]]":
    import pyarrow as pa

    from lema_core.artifacts.parquet import TableWriter

    with _translate_column_faults(out):
        schema = _schema(cases)

    def write(rows: "list[Row]") -> None:
        with _translate_column_faults(out):
            file.write(pa.Table.from_pylist(rows, schema=schema))

    with ExitStack() as stack:
        with _translate_column_faults(out):
            file = stack.enter_context(TableWriter(local, schema))
        yield write


def _schema(cases: str) -> Any:
    """Return the columns of all cases together: a first pass, since a column may appear late or begin with nulls."""
    import pyarrow as pa

    from lema_core.questions.sources import read_rows
    from lema_core.system.chunking import chunked

    schema = pa.schema([])
    for some in chunked((row for _, row in read_rows(cases)), BATCH):
        names = dict.fromkeys(name for row in some for name in row if name not in FOUND)
        seen = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in some]).schema
        schema = pa.unify_schemas([schema, seen], promote_options="permissive")
    return pa.schema([*schema, *((name, pa.string()) for name in FOUND)])


@contextmanager
def _translate_column_faults(out: Path) -> "Iterator[None]":
    from lema_core.artifacts.parquet import raise_faults_as
    from lema_core.errors import DataError

    full: OSError | None = None
    with raise_faults_as(
        lambda cause: DataError(f"{out}: the cases do not fit the columns of Parquet ({cause}). Write .jsonl instead")
    ):
        try:
            yield
        except OSError as error:
            full = error
    if full is not None:
        raise full  # an error of the disk, not of the columns


def _print_layers(console: "Console", layers: Counter[tuple[str, str]], outcomes: tuple[str, str, str]) -> None:
    from rich.table import Table

    table = Table("layer", *outcomes, title="Outcomes by layer")
    for layer in sorted({name for name, _ in layers}):
        table.add_row(layer, *(str(layers[layer, outcome]) for outcome in outcomes))
    table.add_row("all", *(str(sum(n for (_, o), n in layers.items() if o == outcome)) for outcome in outcomes))
    console.print(table)


def _print_agreement(
    console: "Console",
    labels: Counter[tuple[bool, str]],
    disagreements: "list[tuple[Any, str, str]]",
    outcomes: tuple[str, str, str],
) -> None:
    from rich.markup import escape

    total = sum(labels.values())
    if not total:
        return
    yes, no, unknown = outcomes
    agreed = sum(count for (equal, verdict), count in labels.items() if equal == (verdict == yes))
    false_positives = labels[False, yes]
    false_negatives = labels[True, no]
    console.print(
        f"agreement {agreed} of {total} ({agreed / total:.4f}); wrongly {yes} {false_positives}, "
        f"wrongly {no} {false_negatives}, unknown {labels[True, unknown] + labels[False, unknown]}",
        highlight=False,
    )
    for row, verdict, layer in disagreements:
        gold, pred = (repr(str(row[name])[-WIDTH:]) for name in ("gold", "pred"))
        label = yes if row["equal"] else no
        console.print(
            escape(f"  {verdict} ({layer}), labelled {label}: {gold} against {pred}"),
            highlight=False,
        )

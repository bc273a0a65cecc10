"""``lema verify``: compare final answers by the matcher that judges reasoning paths, and see why it decided so."""

from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from lema_core.answers import MatchPolicy
    from lema_core.answers.judge import Verification
    from lema_core.questions.tasks.task import Row

FOUND = ("verdict", "layer", "ground")
"""What is written beside a row's own columns."""
BATCH = 1_000
WIDTH = 60
MAX_NOTES = 5
"""Kinds of notes on how rows were read that are printed."""


def verify(
    cases: Annotated[
        str | None,
        typer.Argument(help="File or URL of JSONL, JSON or Parquet with `gold` and `pred`, perhaps `equal`."),
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
) -> None:
    r"""Compare gold answers with predicted ones, each a bare answer or a whole solution.

    A line is a JSON object with `gold` and `pred`; `family` (numeric, latex, choice, text) or `task` (gsm8k, math,
    csqa, ...) selects how answers are read, `candidates` are the choices of a multiple-choice question, and `equal`
    says what is right, so that the agreement can be counted. The verdict is equal, different or unknown; unknown is
    never counted as equal. A scorer's code is loaded only for `--family`, never because a line names it.

        lema verify cases.jsonl --out verdicts.jsonl

        lema verify --why '\frac{1}{2}' 'The answer is 50\%.'
    """
    from flows.cli.console import SafeConsole

    console = SafeConsole()
    checked, chosen = _family(family), _policy(policy or [])
    if why is not None:
        _explain(console, why, checked, chosen)
    elif cases is None:
        raise typer.BadParameter("give a file of cases, or --why GOLD PRED to explain one pair")
    elif out is not None and out.resolve() == Path(cases).resolve():
        raise typer.BadParameter(f"--out {out} is the file of cases itself, which it would overwrite; name another one")
    else:
        _verify_file(console, cases, out, checked, show, chosen)


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


def _explain(console: "Console", pair: tuple[str, str], family: str, policy: "MatchPolicy") -> None:
    from rich.markup import escape

    from lema_core.answers.judge import verify_pair

    result = verify_pair(*pair, family, policy=policy)
    for name, found in (("gold", result.gold), ("pred", result.pred)):
        seen = f"{found.value!r} (cue: {found.cue})" if found.value is not None else f"{found.outcome}: {found.detail}"
        console.print(f"{name:9}{escape(seen)}", highlight=False)
    console.print(f"verdict  {result.match.outcome}", highlight=False)
    console.print(f"layer    {result.match.layer}", highlight=False)
    console.print(f"ground   {escape(result.match.ground)}", highlight=False)


def _verify_file(
    console: "Console", cases: str, out: Path | None, family: str, show: int, policy: "MatchPolicy"
) -> None:
    from rich.markup import escape

    from lema_core.questions.sources import read_rows
    from lema_core.system.chunking import chunked

    layers: Counter[tuple[str, str]] = Counter()
    labels: Counter[tuple[bool, str]] = Counter()
    disagreements: list[tuple[Any, Verification]] = []
    notes = Counter[str]()
    with _writer(out, cases) as write:
        for some in chunked(read_rows(cases), BATCH):
            judged = [(row, _verify_row(place, row, family, policy)) for place, row in some]
            notes.update(note for row, _ in judged if (note := _note(row, family)))
            write(
                [
                    {**row, **dict(zip(FOUND, (result.verdict, result.match.layer, result.match.ground), strict=True))}
                    for row, result in judged
                ]
            )
            for row, result in judged:
                layers[result.match.layer, result.verdict] += 1
                if row.get("equal") is not None:
                    labels[bool(row["equal"]), result.verdict] += 1
                    if bool(row["equal"]) != (result.verdict == "equal") and len(disagreements) < show:
                        disagreements.append((row, result))
    _print_layers(console, layers)
    for note, count in notes.most_common(MAX_NOTES):
        console.print(escape(f"{count} rows: {note}"), highlight=False)
    _print_agreement(console, labels, disagreements)


def _verify_row(place: str, row: "Row", family: str, policy: "MatchPolicy") -> "Verification":
    from lema_core.answers.judge import verify_pair
    from lema_core.answers.results import family_of
    from lema_core.errors import DataError

    choices = row.get("candidates")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)):
        raise DataError(f"{place}: `candidates` is {str(choices)[:60]!r}, expected a list of texts, one a choice")
    gold, pred = _text(row, "gold", place), _text(row, "pred", place)
    return verify_pair(gold, pred, family_of(row, family), tuple(choices) if choices else None, policy=policy)


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


def _print_layers(console: "Console", layers: Counter[tuple[str, str]]) -> None:
    from rich.table import Table

    outcomes = ("equal", "different", "unknown")
    table = Table("layer", *outcomes, title="Outcomes by layer")
    for layer in sorted({name for name, _ in layers}):
        table.add_row(layer, *(str(layers[layer, outcome]) for outcome in outcomes))
    table.add_row("all", *(str(sum(n for (_, o), n in layers.items() if o == outcome)) for outcome in outcomes))
    console.print(table)


def _print_agreement(
    console: "Console", labels: Counter[tuple[bool, str]], disagreements: "list[tuple[Any, Verification]]"
) -> None:
    from rich.markup import escape

    total = sum(labels.values())
    if not total:
        return
    agreed = sum(count for (equal, verdict), count in labels.items() if equal == (verdict == "equal"))
    false_positives = labels[False, "equal"]
    false_negatives = labels[True, "different"]
    console.print(
        f"agreement {agreed} of {total} ({agreed / total:.4f}); wrongly equal {false_positives}, "
        f"wrongly different {false_negatives}, unknown {labels[True, 'unknown'] + labels[False, 'unknown']}",
        highlight=False,
    )
    for row, result in disagreements:
        gold, pred = (repr(str(row[name])[-WIDTH:]) for name in ("gold", "pred"))
        label = "equal" if row["equal"] else "different"
        console.print(
            escape(f"  {result.verdict} ({result.match.layer}), labelled {label}: {gold} against {pred}"),
            highlight=False,
        )

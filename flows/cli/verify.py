"""``lema verify``: compare final answers by the matcher that judges reasoning paths, and see why it decided so."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from lema_core.answers.verify import Verification

BATCH = 1_000
WIDTH = 60


def verify(
    cases: Annotated[
        Path | None, typer.Argument(help="JSONL or Parquet with `gold` and `pred`, perhaps `equal`.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the rows with verdict, layer and ground here.")] = None,
    family: Annotated[
        str, typer.Option(help="numeric, latex, choice, text, or a scorer's entry point; for rows that name none.")
    ] = "latex",
    why: Annotated[tuple[str, str] | None, typer.Option(help="Explain one pair: GOLD PRED.")] = None,
    show: Annotated[int, typer.Option(help="How many disagreements to show.")] = 20,
) -> None:
    r"""Compare gold answers with predicted ones, each a bare answer or a whole solution.

    A line is a JSON object with `gold` and `pred`; `task` (gsm8k, math, csqa, ...) or `family` selects how answers are
    read, `candidates` are the choices of a multiple-choice question, and `equal` says what is right, so that the
    agreement can be counted. The verdict is equal, different or unknown; unknown is never counted as equal.

        lema verify cases.jsonl --out verdicts.jsonl

        lema verify --why '\frac{1}{2}' 'The answer is 50\%.'
    """
    from rich.console import Console

    console = Console()
    checked = _family(family)
    if why is not None:
        _explain(console, why, checked)
    elif cases is None:
        raise typer.BadParameter("give a file of cases, or --why GOLD PRED to explain one pair")
    elif out is not None and out.resolve() == cases.resolve():
        raise typer.BadParameter(f"--out {out} is the file of cases itself, which it would overwrite; name another one")
    else:
        _verify_file(console, cases, out, checked, show)


def _family(name: str) -> str:

    if name not in ("numeric", "latex", "choice", "text") and ":" not in name:
        raise typer.BadParameter(
            f"--family {name}: expected numeric, latex, choice, text or a scorer package.module:object"
        )
    return name


def _explain(console: "Console", pair: tuple[str, str], family: str) -> None:
    from rich.markup import escape

    from lema_core.answers.verify import verify_pair

    result = verify_pair(*pair, family)
    for name, found in (("gold", result.gold), ("pred", result.pred)):
        seen = f"{found.value!r} (cue: {found.cue})" if found.value is not None else f"{found.outcome}: {found.detail}"
        console.print(f"{name:9}{escape(seen)}", highlight=False)
    console.print(f"verdict  {result.match.outcome}", highlight=False)
    console.print(f"layer    {result.match.layer}", highlight=False)
    console.print(f"ground   {escape(result.match.ground)}", highlight=False)


def _verify_file(console: "Console", cases: Path, out: Path | None, family: str, show: int) -> None:
    from lema_core.answers.verify import family_of, verify_pair

    layers: Counter[tuple[str, str]] = Counter()
    labels: Counter[tuple[bool, str]] = Counter()
    disagreements: list[tuple[Any, Verification]] = []
    with _Writer(out) as writer:
        for number, row in enumerate(_rows(cases), start=1):
            gold, pred = _text(row, "gold", cases, number), _text(row, "pred", cases, number)
            choices = row.get("candidates")
            result = verify_pair(gold, pred, family_of(row, family), tuple(choices) if choices else None)
            layers[result.match.layer, result.verdict] += 1
            writer.write({**row, "verdict": result.verdict, "layer": result.match.layer, "ground": result.match.ground})
            if row.get("equal") is not None:
                labels[bool(row["equal"]), result.verdict] += 1
                if bool(row["equal"]) != (result.verdict == "equal") and len(disagreements) < show:
                    disagreements.append((row, result))
    _print_layers(console, layers)
    _print_agreement(console, labels, disagreements)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Stream the rows of a JSONL or Parquet file."""
    import json

    from lema_core.errors import DataError

    if not path.is_file():
        raise DataError(f"{path}: no such file; give a JSONL or Parquet file with the columns gold and pred")
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: no whole Parquet file ({error}); write it again") from None
        for batch in file.iter_batches(BATCH):
            yield from batch.to_pylist()
        return
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error}); each line is one object") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: expected an object with gold and pred, saw {line[:60]!r}")
            yield row


def _text(row: dict[str, Any], name: str, path: Path, number: int) -> str:
    from lema_core.errors import DataError

    if name not in row:
        raise DataError(f"{path}, row {number}: no field {name!r}; it has {', '.join(map(str, row))}")
    return "" if row[name] is None else str(row[name])


class _Writer:
    """Rows to a JSONL or Parquet file, batch by batch; to nothing without a path."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.file: Any = None

    def __enter__(self) -> Self:
        return self

    def write(self, row: dict[str, Any]) -> None:
        if self.path is not None:
            self.rows.append(row)
            if len(self.rows) >= BATCH:
                self.flush()

    def flush(self) -> None:
        import json

        if self.path is None or not self.rows:
            return
        if self.path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            names = self.file.schema.names if self.file else dict.fromkeys(name for row in self.rows for name in row)
            rows = [{name: row.get(name) for name in names} for row in self.rows]
            table = pa.Table.from_pylist(rows, schema=self.file.schema if self.file else None)
            self.file = self.file or pq.ParquetWriter(self.path, table.schema)
            self.file.write_table(table)
        else:
            self.file = self.file or self.path.open("w", encoding="utf-8")
            self.file.writelines(json.dumps(row) + "\n" for row in self.rows)
        self.rows = []

    def __exit__(self, *_: object) -> None:
        self.flush()
        if self.file is not None:
            self.file.close()


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

"""``lema init``: a commented run file to begin with."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.console import console

if TYPE_CHECKING:
    from lema_core.questions import FieldMapping

MINE = "mine"
_QUESTION = ("question", "problem", "prompt", "query", "input", "instruction", "text")
_RATIONALE = ("rationale", "solution", "explanation", "reasoning", "worked_solution")
_GOLD = ("gold", "answer", "final_answer", "expected_answer", "target", "label", "solution", "output", "response")
"""Column names of published sets, the most telling first."""
NAMES = {"gsm8k": "gsm8k_openai"}
"""Short names of bundled run files."""


def init(
    name: Annotated[
        str, typer.Argument(help="`mine` for your own questions, or a bundled run file to change: demo, gsm8k, ...")
    ] = MINE,
    to: Annotated[Path | None, typer.Option(help="The file to write.", show_default="NAME.toml")] = None,
    questions: Annotated[
        str | None, typer.Option(help="mine: your file of questions; its columns are found in the first row.")
    ] = None,
    task: Annotated[str, typer.Option(help="mine: what answers are: numeric, latex, choice or text.")] = "numeric",
    base_url: Annotated[str, typer.Option(help="mine: your OpenAI-compatible endpoint.")] = "http://127.0.0.1:8000/v1",
    model: Annotated[str, typer.Option(help="mine: the student's name there.")] = "my-model",
    api_key_env: Annotated[
        str, typer.Option(help="mine: the environment variable that holds the endpoint's key.")
    ] = "",
    teacher_url: Annotated[str, typer.Option(help="mine: the teacher's endpoint.", show_default="--base-url")] = "",
    teacher_model: Annotated[str, typer.Option(help="mine: the teacher's name there.", show_default="--model")] = "",
    teacher_key_env: Annotated[
        str, typer.Option(help="mine: the variable with the teacher's key.", show_default="--api-key-env")
    ] = "",
) -> None:
    """Write a commented run file into the working directory. Nothing is sent, and no file is replaced.

    Example: lema init mine --questions problems.jsonl --base-url http://127.0.0.1:8000/v1 --model my-model
    """
    from lema_core.errors import ConfigError
    from lema_core.run.bundled import bundled, bundled_runs
    from lema_core.run.files import read_run_file

    runs = bundled_runs()
    source = bundled("templates", "mine.toml") if name == MINE else runs.get(NAMES.get(name, name))
    if source is None:
        raise ConfigError(f"there is no run file {name!r} to begin with; there are {', '.join([MINE, *NAMES, *runs])}")
    text = source.read_text(encoding="utf-8")
    if name == MINE:
        mapping = None if questions is None else find_columns(questions)
        filled = {
            "task": task,
            "path": json.dumps(questions or "questions.jsonl"),
            "mapping": _inline_table(mapping),
            "model": json.dumps(model),
            "base_url": json.dumps(base_url),
            "student_key": _key_line(api_key_env),
            "teacher_model": json.dumps(teacher_model or model),
            "teacher_url": json.dumps(teacher_url or base_url),
            "teacher_key": _key_line(teacher_key_env or ("" if teacher_url else api_key_env)),
        }
        text = re.sub("@(" + "|".join(filled) + ")@", lambda match: filled[match[1]], text)
    target = to or Path(f"{name}.toml")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{target} exists already and stays as it is; name another file with --to") from None
    try:
        read_run_file(target)
    except ConfigError:
        target.unlink()
        raise
    console.print(f"{target} is written. Look at it, then: lema plan {target}", markup=False)


def find_columns(path: str) -> "FieldMapping":
    """Return the mapping that the columns of a file's first row suggest.

    Raises:
        DataError: the file cannot be read, or no column looks like a question or an answer.
    """
    from lema_core.errors import DataError
    from lema_core.questions import FieldMapping
    from lema_core.questions.sources import read_rows

    row = next((row for _, row in read_rows(path, stop=1)), None)
    if row is None:
        raise DataError(f"{path} has no row. Expected one question per row")
    question = _first(_QUESTION, row, ())
    rationale = _first(_RATIONALE, row, (question,))
    gold = _first(_GOLD, row, (question, rationale)) or rationale
    if question is None or gold is None:
        lacking = "question" if question is None else "answer"
        raise DataError(
            f"{path}: no column looks like the {lacking}; there are {', '.join(map(str, row))}. Rename it to "
            f"`{lacking}`, or leave --questions out and edit `mapping` in the file"
        )
    return FieldMapping(
        question=question, gold=gold, rationale=rationale, candidates="candidates" if "candidates" in row else None
    )


def _first(names: tuple[str, ...], row: Mapping[str, object], taken: tuple[str | None, ...]) -> str | None:
    by_lower = {str(column).lower(): str(column) for column in row}
    return next((by_lower[name] for name in names if name in by_lower and by_lower[name] not in taken), None)


def _inline_table(mapping: "FieldMapping | None") -> str:
    fields = {"question": "question", "gold": "answer"} if mapping is None else mapping.model_dump(exclude_none=True)
    return "{ " + ", ".join(f"{name} = {json.dumps(column)}" for name, column in fields.items()) + " }"


def _key_line(variable: str) -> str:
    return f"api_key_env = {json.dumps(variable)}" if variable else '# api_key_env = "MY_API_KEY"'

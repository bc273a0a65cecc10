"""The run file: TOML read with every mistake named by its place, and the options that it may hold.

Options, defaults and help come from the specs themselves.
"""

import ast
import difflib
import inspect
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from lema_core.errors import ConfigError
from lema_core.questions.tasks.own import relative_to
from lema_core.run.bundled import bundled_runs, find_run_file
from lema_core.run.spec import LIST, TABLE, RunSpec

LARGEST = 16 << 20
"""Bytes of a run file."""
Model = TypeVar("Model", bound=BaseModel)
TOP = ""
"""The section of what stands before the first one in a run file."""


def read_run_file(path: Path, settings: Iterable[str] = ()) -> RunSpec:
    """Return the run of a TOML file, with ``a.b=c`` settings laid over it (c is TOML, or a plain string).

    ``path`` may also be the name of a bundled run file, such as ``demo``.

    Raises:
        ConfigError: the file is missing, is no TOML, or holds a wrong or misspelt option; the message lists them all.
    """
    path = find_run_file(path)
    document = _read_toml(path)
    for setting in settings:
        _lay_over(document, setting)
    _place_tasks(document, path.absolute().parent)
    try:
        return RunSpec.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{path}:\n" + "\n".join(problems(error))) from None
    except RecursionError:
        raise ConfigError(f"{path}: its values lie too deep in each other") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ConfigError(f"{path} is larger than {LARGEST >> 20} MiB: it is no run file")
        return tomllib.loads(content.decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist. Give the path of a run file (`lema init mine` writes one), or the name of a "
            f"bundled one: {', '.join(bundled_runs())}."
        ) from None
    # ValueError: bytes that are no UTF-8, what is no TOML, an integer of thousands of digits.
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None


def _place_tasks(document: Mapping[str, Any], folder: Path) -> None:
    """Make the places of tasks of one's own absolute: worker processes have another working directory."""
    for section in ("questions", "test_questions"):
        found = document.get(section)
        tables: list[Any] = found if isinstance(found, list) else [found]
        for number, table in enumerate(tables):
            if isinstance(table, str):
                tables[number] = relative_to(table, folder)
            elif isinstance(table, dict) and isinstance(table.get("task"), str):
                table["task"] = relative_to(table["task"], folder)


def _lay_over(document: dict[str, Any], setting: str) -> None:
    name, equals, text = setting.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {setting!r} is not of the form section.option=value")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--set {name}=...: the value cannot be read ({error})") from None
    *sections, option = name.strip().split(".")
    place: Any = document
    for section in sections:
        inner = place[_index(place, section, setting)] if isinstance(place, list) else place.setdefault(section, {})
        if not isinstance(inner, dict | list):
            raise ConfigError(f"--set {setting!r}: {section!r} is a value, not a section")
        place = inner
    if isinstance(place, list):
        place[_index(place, option, setting)] = value
    else:
        place[option] = value


def _index(place: list[Any], text: str, setting: str) -> int:
    if text.isdecimal() and int(text) < len(place):
        return int(text)
    raise ConfigError(f"--set {setting!r}: {text!r} must be a position from 0 to {len(place) - 1} in the list")


def problems(error: ValidationError) -> Iterable[str]:
    """Yield a line for each wrong option of a run, with its place and what was meant."""
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"] if part not in {TABLE, LIST}) or "run"
        if problem["type"] == "extra_forbidden":
            yield f"  {place}: there is no such option{_meant(problem['loc'])}"
        elif problem["type"] == "missing":
            yield f"  {place}: is missing and has no default"
        else:
            yield f"  {place}: {_said(problem)}"


def of_options(kind: type[Model], fields: Mapping[str, Any], called: Mapping[str, str] | None = None) -> Model:
    """Return the model that a command's options make; ``called`` has the options' names where the fields' differ.

    Raises:
        ConfigError: an option is wrong; the message names it as people write it (``--max-tokens``).
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        option = f"--{(called or {}).get(field, field).replace('_', '-')}: " if field else ""
        raise ConfigError(f"{option}{_said(first)}") from None


def _said(problem: ErrorDetails) -> str:
    return problem["msg"].removeprefix("Value error, ")


def _meant(place: tuple[int | str, ...]) -> str:
    model: Any = RunSpec
    for part in place[:-1]:
        model = _model_under(model, part)
    known = list(model.model_fields) if model else []
    near = difflib.get_close_matches(str(place[-1]), known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are {', '.join(known)}" if known else ""


def _model_under(model: Any, part: int | str) -> Any:
    """Follow one step of an error's place through the annotations; a position or a free key keeps the model."""
    if not isinstance(part, str) or model is None or part not in model.model_fields:
        return model
    return _first_model(model.model_fields[part].annotation)


def _first_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_first_model(inner) for inner in getattr(annotation, "__args__", ()))
    return next((model for model in found if model is not None), None)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a section."""

    name: str
    kind: str
    """Its type or its values."""
    default: str
    """``needed`` where it has none."""
    about: str


@dataclass(frozen=True, slots=True)
class OptionSection:
    """One section of a run file, as ``[training]``, ``[[students]]`` or ``[endpoints.<name>]``."""

    name: str
    title: str
    about: str
    options: tuple[Option, ...]
    like: str = ""
    """The section that has the same options, listed there."""


def run_options() -> dict[str, OptionSection]:
    """Return the sections of a run file by their plain name (``training.adapter``), in its order."""
    top = _sections(RunSpec, TOP, "", "What stands before the first section.", {})
    return {section.name: section for section in top}


def _sections(
    spec: type[BaseModel], name: str, title: str, about: str, listed: dict[type[BaseModel], str]
) -> Iterator[OptionSection]:
    if spec in listed:
        yield OptionSection(name, title, about, (), listed[spec])
        return
    listed[spec] = title
    plain, nested = [], []
    abouts = _field_docs(spec)
    for field, info in spec.model_fields.items():
        inner = _model_in(info.annotation)
        if inner is None:
            value = "needed" if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
            default = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            plain.append(Option(field, _kind(info.annotation), default, abouts.get(field, "")))
        else:
            place = f"{name}.{field}" if name else field
            nested.append((inner, place, _title(place, info)))
    yield OptionSection(name, title, about, tuple(plain))
    for inner, place, heading in nested:
        first_line = inspect.cleandoc(inner.__doc__ or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")
        yield from _sections(inner, place, heading, abouts.get(place.rpartition(".")[2]) or first_line, listed)


def _title(place: str, info: FieldInfo) -> str:
    shape = str(info.annotation)
    if shape.startswith("dict["):
        return f"[{place}.<name>]"
    return f"[[{place}]]" if shape.startswith("tuple[") else f"[{place}]"


def _kind(annotation: Any) -> str:
    """Return a type in the words of a run file."""
    arguments = [
        argument
        for argument in get_args(annotation)
        if not isinstance(argument, FieldInfo) and argument not in {type(None), ...}
    ]
    text = getattr(annotation, "__name__", str(annotation))
    if text == "Literal":
        return " | ".join(map(str, arguments))
    if not arguments:
        known = {"str": "text", "int": "whole number", "float": "number", "bool": "true | false"}
        return known.get(text, "table" if isinstance(annotation, type) and issubclass(annotation, BaseModel) else text)
    if text in {"tuple", "list", "Sequence"}:
        return f"list of {_kind(arguments[0])}"
    if text in {"dict", "Mapping"}:
        return "table"
    return " | ".join(dict.fromkeys(map(_kind, arguments)))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _model_in(argument))), None)


def _field_docs(spec: type[BaseModel]) -> dict[str, str]:
    """Return the string after each field, as a line of text; Python itself keeps no docstrings of fields."""
    found: dict[str, str] = {}
    for base in reversed(spec.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body = definition.body if isinstance(definition, ast.ClassDef) else []
        for field, text in pairwise(body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)):
                continue
            if isinstance(field.target, ast.Name) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split()).replace("``", "`")
    return found

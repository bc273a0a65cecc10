"""What a run file may hold: every option with its default and its help, read from the specs themselves."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lema_core.run.spec import RunSpec

TOP = ""
"""The section of what stands before the first one in a run file."""


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
            plain.append(_option(field, info, abouts.get(field, "")))
        else:
            place = f"{name}.{field}" if name else field
            nested.append((inner, place, _title(place, info)))
    yield OptionSection(name, title, about, tuple(plain))
    for inner, place, heading in nested:
        yield from _sections(inner, place, heading, abouts.get(place.rpartition(".")[2]) or _first_line(inner), listed)


def _title(place: str, info: FieldInfo) -> str:
    shape = str(info.annotation)
    if shape.startswith("dict["):
        return f"[{place}.<name>]"
    return f"[[{place}]]" if shape.startswith("tuple[") else f"[{place}]"


def _option(name: str, info: FieldInfo, about: str) -> Option:
    if info.is_required():
        default = "needed"
    else:
        value = info.get_default(call_default_factory=True, validated_data={})
        default = "none" if value is None else "true" if value is True else "false" if value is False else str(value)
    return Option(name, _kind(info.annotation), default, about)


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


def _first_line(spec: type[BaseModel]) -> str:
    return inspect.cleandoc(spec.__doc__ or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")

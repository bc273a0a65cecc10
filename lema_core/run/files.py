"""Reading a run file: TOML with every mistake named by its place, before anything is paid."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lema_core.errors import ConfigError
from lema_core.run.spec import RunSpec

LARGEST = 16 << 20
"""Bytes of a run file."""
Model = TypeVar("Model", bound=BaseModel)


def read_run_file(path: Path, settings: Iterable[str] = ()) -> RunSpec:
    """Return the run of a TOML file, with ``a.b=c`` settings laid over it (c is TOML, or a plain string).

    Raises:
        ConfigError: the file is missing, is no TOML, or holds a wrong or misspelt option; the message lists them all.
    """
    document = _read_toml(path)
    for setting in settings:
        _lay_over(document, setting)
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
        raise ConfigError(f"{path} does not exist. Run files are in deployments/runs/; give the path of one.") from None
    # ValueError: bytes that are no UTF-8, what is no TOML, an integer of thousands of digits.
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None


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
        place = _step_into(place, section, setting)
    if isinstance(place, list):
        place[_index(place, option, setting)] = value
    else:
        place[option] = value


def _step_into(place: Any, section: str, setting: str) -> Any:
    inner = place[_index(place, section, setting)] if isinstance(place, list) else place.setdefault(section, {})
    if not isinstance(inner, dict | list):
        raise ConfigError(f"--set {setting!r}: {section!r} is a value, not a section")
    return inner


def _index(place: list[Any], text: str, setting: str) -> int:
    if text.isdecimal() and int(text) < len(place):
        return int(text)
    raise ConfigError(f"--set {setting!r}: {text!r} must be a position from 0 to {len(place) - 1} in the list")


def problems(error: ValidationError) -> Iterable[str]:
    """Yield a line for each wrong option of a run, with its place and what was meant."""
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"]) or "run"
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

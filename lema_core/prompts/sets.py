"""Prompt sets: TOML files beside this module, read once, checked, and hashed by part.

A set has the parts ``path``, ``correction`` and ``evolution``, each an instruction and worked examples, and the
instructions of the other training formats, ``critique`` and ``refinement``. A part's text
enters the identity of the artifacts made with it: a changed evolution prompt leaves the corrections alone.
"""

import hashlib
import tomllib
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from lema_core.errors import ConfigError

Part = Literal["path", "correction", "critique", "refinement", "evolution"]
Stripped = Annotated[str, BeforeValidator(str.strip)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PathExample(_Model):
    """A question with a worked solution."""

    question: Stripped
    solution: Stripped
    candidates: tuple[str, ...] | None = None


class CorrectionExample(_Model):
    """A mistaken solution with its correction, in the paper's text form."""

    question: Stripped
    original: Stripped
    correction: Stripped
    candidates: tuple[str, ...] | None = None


class EvolutionExample(_Model):
    """A question and one that was created from it."""

    given: Stripped
    created: Stripped


class PathPart(_Model):
    """The prompt for a reasoning path."""

    instruction: Stripped
    examples: tuple[PathExample, ...]


class CorrectionPart(_Model):
    """The prompt for a correction."""

    instruction: Stripped
    examples: tuple[CorrectionExample, ...]


class EvolutionPart(_Model):
    """The prompt for a new question."""

    instruction: Stripped
    examples: tuple[EvolutionExample, ...]


class InstructionPart(_Model):
    """The instruction of a training format; no endpoint sees it."""

    instruction: Stripped


class PromptSet(_Model):
    """The prompts of a task."""

    path: PathPart
    correction: CorrectionPart
    critique: InstructionPart
    refinement: InstructionPart
    evolution: EvolutionPart


def names() -> tuple[str, ...]:
    """Return the bundled sets' names."""
    folder = resources.files(__package__)
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")))


@cache
def load(name: str) -> PromptSet:
    """Return a bundled set.

    Raises:
        ConfigError: there is none of that name, or its file is malformed.
    """
    if name not in names():
        raise ConfigError(f"There is no prompt set {name!r}. Expected one of {', '.join(names())}.")
    text = resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    try:
        return PromptSet.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"The prompt set {name} is malformed: {error}. Expected the parts of PromptSet.") from error


def prompt_text(name: str, part: Part) -> str:
    """Return a part of a set as canonical JSON: its instruction and examples, without comments and layout."""
    model: BaseModel = getattr(load(name), part)
    return model.model_dump_json(exclude_none=True)


def fingerprint(name: str, part: Part) -> str:
    """Return the hash of a part's text and of the layout that all sets share, for an artifact's identity."""
    return hashlib.sha256(f"{LAYOUT_VERSION}\n{prompt_text(name, part)}".encode()).hexdigest()[:16]


LAYOUT_VERSION = 1
"""Raised when ``layouts`` puts the same parts together in another way."""

"""Answer families: which one a case of ``lema verify`` names, and scorers of the user's own.

A scorer is named as a Python entry point, ``package.module:object``, in the place of a task's family. The object has
``extract(text) -> str | None`` and ``match(gold, answer) -> bool | None``; None from the first is no answer, from the
second unknown. It runs in this process, as the user's own code.
"""

import importlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol, cast

from lema_core.answers.results import Extraction, Family, Match
from lema_core.errors import ConfigError

_TASKS: Mapping[str, Family] = {
    "gsm8k": "numeric", "svamp": "numeric", "asdiv": "numeric", "arithmetic": "numeric", "math": "latex",
    "csqa": "choice", "commonsenseqa": "choice", "commonsense_qa": "choice",
}  # fmt: skip
FAMILIES: tuple[Family, ...] = ("numeric", "latex", "choice", "text")
"""What a row of a file may name as its family."""


class Scorer(Protocol):
    """What a user's scorer offers."""

    def extract(self, text: str) -> str | None:
        """Return the final answer of a solution, None where there is none."""

    def match(self, gold: str, answer: str) -> bool | None:
        """Return whether the answer is the gold answer, None where that is unknown."""


def is_scorer(family: str) -> bool:
    """Whether a family names a scorer and not one of the built-in families."""
    return ":" in family


@lru_cache(maxsize=64)
def load_scorer(reference: str) -> Scorer:
    """Import a scorer.

    Raises:
        ConfigError: the module or object does not exist, or lacks a method.
    """
    module, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"scorer {reference!r}: {error}; give it as package.module:object") from error
    missing = [method for method in ("extract", "match") if not callable(getattr(found, method, None))]
    if missing:
        raise ConfigError(
            f"scorer {reference!r} has no {' and no '.join(missing)}; it needs extract(text) and match(gold, answer)"
        )
    return cast("Scorer", found)


def extract_with(reference: str, text: str) -> Extraction:
    """Extract by the user's scorer; what it raises is an outcome of the row, not of the run."""
    try:
        value = load_scorer(reference).extract(text)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 the user's code may raise anything
        return Extraction("refused", cue="scorer", detail=f"{type(error).__name__}: {error}"[:200])
    return Extraction("none", cue="scorer") if value is None else Extraction("value", str(value), "scorer")


def match_with(reference: str, gold: str, answer: str) -> Match:
    """Compare by the user's scorer; what it raises leaves the pair unknown."""
    try:
        equal = load_scorer(reference).match(gold, answer)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 the user's code may raise anything
        return Match("unknown", "scorer", f"{type(error).__name__}: {error}"[:200])
    return Match("unknown" if equal is None else "equal" if equal else "different", "scorer", reference)


def family_of(row: Mapping[str, Any], default: Family = "latex") -> Family:
    """Return the family that a case asks for by its ``family``, ``candidates``, ``task`` or ``kind``, else ``default``.

    A row names one of the four families and nothing else: code is imported only for a scorer that the caller gives as
    ``default``. ``kind`` is a common label in files of others, so it counts last; ``ignored_family`` says what was not
    understood.
    """
    family, task = row.get("family"), row.get("task")
    if isinstance(family, str) and (_is_family(family) or family == default):
        return family
    if isinstance(row.get("candidates"), list | tuple) and row["candidates"]:
        return "choice"
    if isinstance(task, str) and task.lower() in _TASKS:
        return _TASKS[task.lower()]
    return row["kind"] if takes_kind(row) else default


def takes_kind(row: Mapping[str, Any]) -> bool:
    """Whether only the label ``kind`` of a case says how its answers are written."""
    task, kind = row.get("task"), row.get("kind")
    named = _is_family(row.get("family")) or row.get("candidates") or (isinstance(task, str) and task.lower() in _TASKS)
    return not named and _is_family(kind)


def _is_family(name: object) -> bool:
    return isinstance(name, str) and name in FAMILIES


def ignored_family(row: Mapping[str, Any], default: Family = "latex") -> str | None:
    """Return the ``family`` of a case that is none of the four and not the one that the caller gave, None if it is."""
    family = row.get("family")
    return None if family is None or family == default or _is_family(family) else str(family)

"""A scorer of the user's own, named as a Python entry point: ``package.module:object``.

The object has ``extract(text) -> str | None`` and ``match(gold, answer) -> bool | None``; None from the first is no
answer, from the second unknown. Name it as the family of a task. It runs in this process, as the user's own code.
"""

import importlib
from functools import lru_cache
from typing import Protocol, cast

from lema_core.answers.results import Extraction, Match
from lema_core.errors import ConfigError


class Scorer(Protocol):
    """What a user's scorer offers."""

    def extract(self, text: str) -> str | None:
        """Return the final answer of a solution, None where there is none."""

    def match(self, gold: str, answer: str) -> bool | None:
        """Return whether the answer is the gold answer, None where that cannot be told."""


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

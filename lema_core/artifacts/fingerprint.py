"""An artifact's identity: the hash of the canonical JSON of everything that decides its content.

A value without a stable text (a set, an object, NaN) is refused: two runs would give it two names, or two values one.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydantic import BaseModel

from lema_core.errors import UnstableValueError

FINGERPRINT_HEX = 16


def canonical_json(value: object) -> str:
    """Return the one JSON text of ``value``: keys sorted, no white space, tuples as lists, models as their fields.

    Raises:
        UnstableValueError: for a value whose text may differ between two runs; the message names its place.
    """
    return json.dumps(_stable(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _stable(value: object, place: str) -> Any:
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UnstableValueError(f"{place} is {value}, which JSON cannot hold. Give a finite number.")
        # 1.0 and 1 are the same setting: TOML writes one, a form the other.
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Enum):
        return _stable(value.value, place)
    if isinstance(value, BaseModel):
        return {name: _stable(getattr(value, name), f"{place}.{name}") for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {_stable_key(key, place): _stable(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_stable(item, f"{place}[{i}]") for i, item in enumerate(value)]
    raise UnstableValueError(
        f"{place} is a {type(value).__name__}, which has no stable text and so no identity. "
        f"Use a string, number, boolean, list, table or a pydantic model of these."
    )


def _stable_key(key: object, place: str) -> str:
    if isinstance(key, str):
        return key
    raise UnstableValueError(f"{place} has the key {key!r}: only strings can be keys of a value with an identity.")


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that decides an artifact's content, but not where it is stored or how it is made."""

    stage: str
    spec: object
    """A frozen pydantic model or plain values: only what changes the content."""
    inputs: tuple[str, ...] = ()
    """Fingerprints of the input artifacts, in order."""
    prompts: str = ""
    """The text of the prompts used, or a hash of it."""
    revision: int = 1
    """Raised by a developer when the stage's code changes meaning."""
    document: str = field(init=False)

    def __post_init__(self) -> None:
        document = canonical_json(
            {
                "stage": self.stage,
                "spec": self.spec,
                "inputs": self.inputs,
                "prompts": hashlib.sha256(self.prompts.encode()).hexdigest(),
                "revision": self.revision,
            }
        )
        object.__setattr__(self, "document", document)

    @property
    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits of the SHA-256 over the canonical document."""
        return hashlib.sha256(self.document.encode()).hexdigest()[:FINGERPRINT_HEX]

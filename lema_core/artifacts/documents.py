"""Small JSON files of ours that prove they are what was written: manifests, records of runs.

The last field, ``sha256``, is a hash over all others. A file without it was written by an older version.
"""

import hashlib
import json
from typing import Any, TypeVar

from pydantic import BaseModel

from lema_core.artifacts.parquet import Fault, faults_as

M = TypeVar("M", bound=BaseModel)
_HASH = "sha256"


def write_document(model: BaseModel) -> str:
    """Return a model as the text of its file."""
    fields = model.model_dump(mode="json", by_alias=True)
    return json.dumps(fields | {_HASH: _digest(fields)}, indent=2, ensure_ascii=True) + "\n"


def read_document(content: bytes, kind: type[M], fault: Fault) -> M:
    """Return the model of a file's bytes.

    Raises:
        LemaError: as ``fault`` makes it, where the file is damaged or holds something else.
    """
    with faults_as(fault):
        fields = json.loads(content.decode("utf-8"), parse_constant=_refuse)
        if not isinstance(fields, dict):
            raise ValueError(f"it holds a JSON {type(fields).__name__}, expected an object")  # noqa: TRY004
        written = fields.pop(_HASH, None)
        if written is not None and written != _digest(fields):
            raise ValueError("its content does not have the hash that it names: it was changed or damaged")
        return kind.model_validate(fields)


def _digest(fields: dict[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")

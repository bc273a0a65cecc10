"""The file of tokenised examples: written once, mapped into memory by every rank."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lema_core.errors import DataError

TOKENS_FILE = "tokens.arrow"
META_FILE = "meta.json"

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("prompt_tokens", pa.int32()),
        ("weight", pa.float64()),
        ("worse_ids", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True, slots=True)
class TokenisedExample:
    """``input_ids[prompt_tokens:]`` is trained: the output and the end-of-sequence token."""

    id: str
    kind: str
    input_ids: list[int]
    prompt_tokens: int
    weight: float
    worse_ids: list[int] | None = None
    """Of a preference pair: the same prompt, then the output that is not preferred."""


class TokenisedData(Sequence[TokenisedExample]):
    """The tokenised examples of a folder; the tokens stay on disk and are mapped into memory.

    Raises:
        DataError: the folder is not complete.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / META_FILE).is_file():
            raise DataError(f"{folder} holds no tokenised examples: run `python -m lema_core.training.data` first")
        self.counts: dict[str, Any] = json.loads((folder / META_FILE).read_text())
        self._table = pa.ipc.open_file(pa.memory_map(str(folder / TOKENS_FILE))).read_all()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._table.slice(index, 1).to_pylist()[0]
        return TokenisedExample(**row)

    def lengths(self) -> list[int]:
        """Return the number of tokens of each example, of a pair those of both."""
        import pyarrow.compute as pc

        ours, worse = (pc.list_value_length(self._table[name]).to_pylist() for name in ("input_ids", "worse_ids"))
        return [int(one) + int(other or 0) for one, other in zip(ours, worse, strict=True)]

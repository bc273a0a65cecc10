"""A seeded shuffle of a stream that does not fit into memory.

The order is that of a hash over the seed and each row's id, so it does not depend on the order in which rows arrive.
Rows go to one of 16 temporary files by the first bits of their hash; then each file is sorted in memory.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields
from operator import attrgetter
from typing import IO, Self

from lema_core.records import Example, content_id

BUCKETS = 16
NAMES = tuple(one.name for one in fields(Example))
VALUES = attrgetter(*NAMES)


def rank(seed: int, row_id: str) -> int:
    """Return the row's place in the seeded order, a number of 64 bits."""
    return int(content_id("o", seed, row_id).removeprefix("o-"), 16)


class Shuffle:
    """Takes rows in any order and gives them in the seeded one: a context manager, for its files."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._files = [self._stack.enter_context(_file()) for _ in range(BUCKETS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, row: Example) -> None:
        """Take a row."""
        place = rank(self._seed, row.id)
        self._files[place * BUCKETS >> 64].write(json.dumps([place, row.id, VALUES(row)]) + "\n")

    def rows(self) -> Iterator[Example]:
        """Yield what was taken, in the seeded order."""
        for file in self._files:
            file.seek(0)
            for _, _, values in sorted((json.loads(line) for line in file), key=lambda line: line[:2]):
                yield Example(**dict(zip(NAMES, values, strict=True)))


def _file() -> IO[str]:
    # ASCII JSON holds any text, a lone surrogate of model text included.
    return tempfile.TemporaryFile("w+", encoding="ascii")

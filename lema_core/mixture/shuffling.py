"""A seeded shuffle of a stream that does not fit into memory.

The order is that of a hash over the seed and each row's id, so it does not depend on the order in which rows arrive.
Rows go to one of 16 temporary files by the first bits of their hash; then each file is sorted in memory.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict

from lema_core.records import Example, content_id

BUCKETS = 16


def rank(seed: int, row_id: str) -> int:
    """Return the row's place in the seeded order, a number of 64 bits."""
    return int(content_id("o", seed, row_id).removeprefix("o-"), 16)


def shuffled(rows: Iterable[Example], seed: int) -> Iterator[Example]:
    """Yield the rows in the seeded order."""
    with ExitStack() as stack:
        # ASCII JSON holds any text, a lone surrogate of model text included.
        files = [stack.enter_context(tempfile.TemporaryFile("w+", encoding="ascii")) for _ in range(BUCKETS)]
        for row in rows:
            place = rank(seed, row.id)
            files[place * BUCKETS >> 64].write(json.dumps([place, row.id, asdict(row)]) + "\n")
        for file in files:
            file.seek(0)
            for _, _, fields in sorted((json.loads(line) for line in file), key=lambda line: line[:2]):
                yield Example(**fields)

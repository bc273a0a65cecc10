"""Items in lists of a limited length."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


# itertools.batched is the same from Python 3.12 on.
def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most ``size`` items, in order."""
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk

"""Ways in which a file's bytes are damaged."""

import random


def overwritten(data: bytes, chance: random.Random, least: int = 1) -> bytes:
    """Return the bytes with ``least`` to 10 of them replaced."""
    changed = bytearray(data)
    for _ in range(chance.randint(least, 10)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def torn(data: bytes, chance: random.Random) -> bytes:
    """Return the beginning of the bytes."""
    return data[: chance.randrange(len(data))]

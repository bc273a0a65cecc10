"""Which GPUs the work at hand may use: told to every process that it starts, training runs and model servers alike."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

VISIBLE = "CUDA_VISIBLE_DEVICES"
Devices = tuple[str, ...]

_given: ContextVar[Devices] = ContextVar("devices", default=())


@contextmanager
def using(devices: Devices) -> Iterator[None]:
    """Let what is started inside see these GPUs only; none given changes nothing."""
    before = _given.set(devices or _given.get())
    try:
        yield
    finally:
        _given.reset(before)


def given() -> Devices:
    """Return the GPUs that the work at hand was given; none where it was given no particular ones."""
    return _given.get()


def environment(plain: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process that sees the given GPUs only."""
    return dict(plain) | ({VISIBLE: ",".join(given())} if given() else {})


def shared_out(devices: Sequence[str], workers: int) -> list[Devices]:
    """Return a share of the GPUs for each worker: all of them for one, one by turns where there are too few."""
    if len(devices) < workers:
        return [(devices[i % len(devices)],) if devices else () for i in range(workers)]
    return [tuple(devices[i::workers]) for i in range(workers)]

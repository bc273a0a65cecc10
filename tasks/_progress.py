"""Progress of a stage while it runs: a Prefect progress artifact, and one line for the terminal's bar.

A progress update costs the server 8 to 28 ms, so there is at most one every two seconds.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import wraps
from typing import ParamSpec

import httpx
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from lema_core.artifacts import ArtifactRef

UPDATE_SECONDS = 2.0
RETRIES = 2
"""Of what is only shown: after 2 and 4 s, then it is left out."""

Watch = Callable[[], tuple[float, str]]
"""Returns how far a stage is (0 to 1) and one line of figures."""

Listener = Callable[[str, float, str], None]
"""Told the stage, how far it is, and its line; the command line draws a bar from it."""

Reader = Callable[[str], None]
"""Told what a person has to read now; the command line prints it."""

_listeners: list[Listener] = []
_readers: list[Reader] = []


P = ParamSpec("P")


def decorative(show: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """Wrap what only shows something in Prefect: where its server is away, the work goes on unseen."""

    @wraps(show)
    async def shown(*args: P.args, **kwargs: P.kwargs) -> None:
        with bearing_absence():
            await show(*args, **kwargs)

    return shown


@contextmanager
def bearing_absence() -> Iterator[None]:
    """Go on where Prefect's server does not answer: that must not stop work that is being paid for."""
    try:
        # By the default of five retries each thing shown would hold up the work for a minute.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: RETRIES}):
            yield
    except Exception as error:
        if not isinstance(error, PrefectException | OSError) and not server_gone(error):
            raise


def server_gone(error: BaseException) -> bool:
    """Tell whether Prefect's client did not reach its server: it raises httpx's error, or another one made of it."""
    return isinstance(error, httpx.TransportError) or isinstance(error.__cause__, httpx.TransportError)


@asynccontextmanager
async def listening(listener: Listener, reader: Reader) -> AsyncIterator[None]:
    """Have ``listener`` told of the progress of every stage in this process, ``reader`` of what people have to do."""
    _listeners.append(listener)
    _readers.append(reader)
    try:
        yield
    finally:
        _listeners.remove(listener)
        _readers.remove(reader)


def announce(text: str) -> None:
    """Tell the people at the terminal something that they have to act on."""
    for reader in _readers:
        reader(text)


@asynccontextmanager
async def watched(ref: ArtifactRef, watch: Watch | None, *, done: int, total: int) -> AsyncIterator[Callable[[], None]]:
    """Show progress while a stage runs; the yielded function counts one finished shard."""
    finished = done

    def tick() -> None:
        nonlocal finished
        finished += 1

    def by_shards() -> tuple[float, str]:
        return finished / total, f"{finished} of {total} shards"

    ended = asyncio.Event()
    updates = asyncio.create_task(_update(ref, watch or by_shards, ended))
    try:
        yield tick
    except BaseException:
        updates.cancel()
        raise
    finally:
        ended.set()
        with suppress(asyncio.CancelledError):
            await updates


async def _update(ref: ArtifactRef, watch: Watch, ended: asyncio.Event) -> None:
    artifact = None
    last: tuple[float, str] | None = None
    try:
        while True:
            over = ended.is_set()
            share, line = now = watch()
            for listener in _listeners:
                listener(ref.stage, share, line)
            if now != last:
                artifact = await _send(artifact, ref, share, line)
            last = now
            if over:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), UPDATE_SECONDS)
    finally:
        for listener in _listeners:
            listener(ref.stage, 1.0, "")


async def _send(artifact: object, ref: ArtifactRef, share: float, line: str) -> object:
    with bearing_absence():
        if artifact is None:
            key = f"progress-{ref.stage.replace('_', '-')}"
            return await acreate_progress_artifact(progress=100 * share, key=key, description=line)
        await aupdate_progress_artifact(artifact_id=artifact, progress=100 * share, description=line)  # type: ignore[arg-type]
    return artifact

"""Progress of a stage while it runs: a Prefect progress artifact, and one line for the terminal's bar.

A progress update costs the server 8 to 28 ms, so there is at most one every two seconds.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec
from uuid import UUID

import httpx
from prefect import get_client
from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.context import SettingsContext, get_settings_context
from prefect.exceptions import PrefectException

from lema_core.artifacts import ArtifactRef

_log = logging.getLogger(__name__)

UPDATE_SECONDS = 2.0
RETRIES = 2
"""Of what is only shown: after 2 and 4 s, then it is left out."""


MOMENTARY = frozenset({"in flight", "oldest", "ETA"})
"""Figures that say nothing of a stage that has ended."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is (0 to 1), and its figures by name."""

    share: float
    figures: dict[str, str]

    @property
    def line(self) -> str:
        """Return the figures in one line, what is done first; at the end without those of a moment."""
        (_, done), *others = self.figures.items()
        ended = self.share >= 1.0
        return ", ".join([done, *(f"{name} {value}" for name, value in others if not (ended and name in MOMENTARY))])


ProgressSource = Callable[[], Progress]

Listener = Callable[[str, float, str], None]
"""Receives the stage's title, its share and its line; the command line draws a bar."""

Reader = Callable[[str], None]
"""Receives what a person has to read now; the command line prints it."""

_listeners: list[Listener] = []
_readers: list[Reader] = []


def artifact_key(*words: str) -> str:
    """Return a key as Prefect wants it, of small letters, digits and dashes, from names that may have others."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


P = ParamSpec("P")


def best_effort(show: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """Wrap what only shows something in Prefect: where its server is away, the work goes on unseen."""

    @wraps(show)
    async def shown(*args: P.args, **kwargs: P.kwargs) -> None:
        with tolerate_prefect_outage():
            await show(*args, **kwargs)

    return shown


@contextmanager
def tolerate_prefect_outage() -> Iterator[None]:
    """Go on where Prefect's server does not answer: that must not stop work that is being paid for."""
    given = get_settings_context()
    # By the default of five retries each thing shown would hold up the work for a minute. Prefect's temporary_settings
    # reads the environment and all files again: 70 ms of CPU time, and we come here every second.
    client = given.settings.client.model_copy(update={"max_retries": RETRIES})
    settings = given.settings.model_copy(update={"client": client})
    try:
        with SettingsContext(profile=given.profile, settings=settings):
            yield
    except Exception as error:
        if not isinstance(error, PrefectException | OSError) and not server_gone(error):
            raise


def server_gone(error: BaseException) -> bool:
    """Return whether Prefect's server does not answer, or cannot now (its database is away, too much to do).

    Its client raises httpx's error, or another one made of it.
    """
    return any(
        isinstance(cause, httpx.TransportError)
        or (
            isinstance(cause, httpx.HTTPStatusError)
            and (cause.response.is_server_error or cause.response.status_code == 429)
        )
        for cause in (error, error.__cause__)
    )


@contextmanager
def listen(listener: Listener, reader: Reader) -> Iterator[None]:
    """Pass the progress of every stage in this process to ``listener``, and what people have to do to ``reader``."""
    _listeners.append(listener)
    _readers.append(reader)
    try:
        yield
    finally:
        _listeners.remove(listener)
        _readers.remove(reader)


def notify_user(text: str) -> None:
    """Show the people at the terminal something that they have to act on."""
    for reader in _readers:
        reader(text)


@asynccontextmanager
async def show_progress(
    ref: ArtifactRef, watch: ProgressSource | None, *, done: int, total: int, title: str = ""
) -> AsyncIterator[Callable[[], None]]:
    """Show progress while a stage runs; the yielded function counts one finished shard.

    ``title`` is what a terminal calls it: a run has several stages of one name, one per arm or student.
    """
    finished = done

    def tick() -> None:
        nonlocal finished
        finished += 1

    def by_shards() -> Progress:
        return Progress(finished / total, {"done": f"{finished} of {total} shards"})

    ended = asyncio.Event()
    updates = asyncio.create_task(_update(ref.stage, title or ref.stage, watch or by_shards, ended))
    try:
        yield tick
    except BaseException:
        updates.cancel()
        raise
    finally:
        # The last update is awaited: it shows the final figures, and no update may come after the stage's end.
        ended.set()
        try:
            # Not `await updates` with its cancellation suppressed: that swallowed a cancellation of the stage, too.
            await asyncio.wait([updates])
        except asyncio.CancelledError:
            updates.cancel()
            raise


async def _update(stage: str, title: str, watch: ProgressSource, ended: asyncio.Event) -> None:
    shown, last, warned = _Shown(stage), None, False
    try:
        over = False
        while not over:
            over = ended.is_set()
            try:
                last = await _show(title, watch(), shown, last)
            # Whatever it is: what is only shown must not fail a stage that is paid for.
            except Exception as error:  # noqa: BLE001 see above
                # An artifact that was deleted, or a new database: the next update makes one anew.
                shown = _Shown(stage)
                if not warned:
                    _log.warning("the progress of %s cannot be shown, the work goes on: %r", stage, error)
                warned = True
            if not over:
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), UPDATE_SECONDS)
    finally:
        for listener in _listeners:
            with suppress(Exception):
                listener(title, 1.0, "")


async def _show(title: str, now: Progress, shown: "_Shown", last: Progress | None) -> Progress:
    for listener in _listeners:
        listener(title, now.share, now.line)
    if now != last:
        await shown.send(now)
    return now


class _Shown:
    """A stage's progress in Prefect: a progress artifact with one line, and a table of several figures."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._progress: UUID | None = None
        self._table: UUID | None = None

    async def send(self, now: Progress) -> None:
        with tolerate_prefect_outage():
            await self._send_progress(now)
            if len(now.figures) > 1:
                await self._send_table([{"what": name, "now": value} for name, value in now.figures.items()])

    async def _send_progress(self, now: Progress) -> None:
        if self._progress is None:
            key = artifact_key("progress", self._stage)
            made = await acreate_progress_artifact(progress=100 * now.share, key=key, description=now.line)
            self._progress = made
        else:
            await aupdate_progress_artifact(self._progress, 100 * now.share, now.line)

    async def _send_table(self, rows: list[dict[str, str]]) -> None:
        if self._table is None:
            self._table = await acreate_table_artifact(table=rows, key=artifact_key("requests", self._stage))
        else:
            async with get_client() as client:
                # Prefect has a function for this for progress only.
                await client.update_artifact(self._table, ArtifactUpdate(data=json.dumps(rows)))

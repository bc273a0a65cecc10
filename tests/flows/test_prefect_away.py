"""Prefect's server answers, and only with 5xx or 429: a healthy run goes on."""

import asyncio
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError

from flows import cancelling
from lema_core.artifacts import ArtifactRef
from lema_core.errors import CancelledRunError, ServerGoneError
from tasks import progress

RUN = SimpleNamespace(name="r")


def answered(status: int) -> PrefectHTTPStatusError:
    request = httpx.Request("GET", "http://127.0.0.1:4200/api/flow_runs/1")
    return PrefectHTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


class Client:
    """Answers as a server does whose database is away for a moment; the work ends once it has answered well."""

    def __init__(self, statuses: list[int], over: asyncio.Event) -> None:
        self.statuses, self.over = statuses, over

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None

    async def read_flow_run(self, _):
        if self.statuses:
            raise answered(self.statuses.pop())
        self.over.set()
        return SimpleNamespace(state=State(type="RUNNING"))


class StubFlow:
    """As much of a Prefect flow as is asked of one here."""

    def __init__(self, fn) -> None:
        self.fn = fn

    def with_options(self, **_):
        return StubFlow(self.fn)

    def __call__(self, *args):
        return self.fn(*args)


@pytest.mark.parametrize("statuses", [[503, 500, 429], [418]])
def test_a_server_that_cannot_answer_cancels_nothing(monkeypatch, statuses):
    over, told = asyncio.Event(), []
    client = Client(list(statuses), over)

    def notify_user(text: str) -> None:
        told.append(text)
        if "cannot be cancelled" in text:
            over.set()

    async def working(*_):
        cancelling._note(None, SimpleNamespace(id=uuid4()), None)
        await over.wait()
        return "done"

    monkeypatch.setattr(cancelling, "get_client", lambda: client)
    monkeypatch.setattr(cancelling, "notify_user", notify_user)
    quick = cancelling.CancelSettings(poll_s=0.01)
    flow_run = cancelling.run_cancellable(StubFlow(working), RUN, "root", settings=quick)
    assert asyncio.run(flow_run) == "done"
    assert len(told) == 1


def test_a_run_can_be_cancelled_again_after_an_answer_of_an_unknown_kind(monkeypatch):
    client, notes = Client([418], asyncio.Event()), []

    async def cancelling_state(_):
        if client.statuses:
            raise answered(client.statuses.pop())
        return SimpleNamespace(state=State(type="CANCELLING"))

    async def working(*_):
        cancelling._note(None, SimpleNamespace(id=uuid4()), None)
        await asyncio.sleep(60)

    monkeypatch.setattr(client, "read_flow_run", cancelling_state)
    monkeypatch.setattr(cancelling, "get_client", lambda: client)
    monkeypatch.setattr(cancelling, "notify_user", notes.append)
    quick = cancelling.CancelSettings(poll_s=0.01, final_state_s=0.01)
    with pytest.raises(CancelledRunError):
        asyncio.run(cancelling.run_cancellable(StubFlow(working), RUN, "root", settings=quick))
    assert len(notes) == 1


def test_a_cancellation_during_a_stages_last_update_is_the_stages(monkeypatch):
    asked = asyncio.Event()

    async def slow(**_):
        asked.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(progress, "acreate_progress_artifact", slow)

    async def stage() -> None:
        async with progress.show_progress(ArtifactRef("questions", "f"), None, done=0, total=1):
            await asked.wait()

    async def cancel() -> None:
        task = asyncio.create_task(stage())
        await asked.wait()
        await asyncio.sleep(0)  # the stage has ended, and awaits its last update
        task.cancel()
        await asyncio.wait([task], timeout=10)
        assert task.cancelled()

    asyncio.run(cancel())


def test_a_run_that_the_server_ends_by_5xx_says_how_to_go_on():
    async def failing(*_):
        raise answered(503)

    with pytest.raises(ServerGoneError, match="lema resume r"):
        asyncio.run(cancelling.run_cancellable(StubFlow(failing), RUN, "root"))


@pytest.mark.parametrize("status", [500, 503, 429])
def test_progress_that_cannot_be_shown_fails_no_stage(monkeypatch, status):
    async def refuse(**_):
        raise answered(status)

    monkeypatch.setattr(progress, "acreate_progress_artifact", refuse)

    async def stage() -> str:
        async with progress.show_progress(ArtifactRef("questions", "f"), None, done=0, total=1) as tick:
            tick()
        return "published"

    assert asyncio.run(stage()) == "published"


def test_a_progress_that_was_deleted_is_made_anew_and_fails_no_stage(monkeypatch, caplog):
    made, again = [], asyncio.Event()

    async def make(**_):
        made.append(uuid4())
        if len(made) == 2:
            again.set()
        return made[-1]

    async def update(which, *_):
        if which == made[0]:
            raise answered(404)

    monkeypatch.setattr(progress, "acreate_progress_artifact", make)
    monkeypatch.setattr(progress, "aupdate_progress_artifact", update)
    monkeypatch.setattr(progress, "UPDATE_SECONDS", 0.01)
    shares = iter(range(1000))

    async def stage() -> str:
        watch = lambda: progress.Progress(0.5, {"done": str(next(shares))})  # noqa: E731
        async with progress.show_progress(ArtifactRef("questions", "f"), watch, done=0, total=1), asyncio.timeout(10):
            await again.wait()
        return "published"

    assert asyncio.run(stage()) == "published"
    assert caplog.text.count("cannot be shown") == 1


def test_a_defect_in_what_is_shown_fails_no_stage():
    async def stage() -> str:
        async with progress.show_progress(ArtifactRef("questions", "f"), lambda: 1 / 0, done=0, total=1):
            pass
        return "published"

    assert asyncio.run(stage()) == "published"


def test_any_name_gives_a_key_that_prefect_takes():
    assert progress.artifact_key("losses", "corrector_gpt-4.1") == "losses-corrector-gpt-4-1"
    assert progress.artifact_key("losses", "MyArm") == "losses-myarm"

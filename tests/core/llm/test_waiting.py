"""What a request waits for is in the progress line: another process that pays for it, a lock on the ledger."""

import asyncio
import sqlite3

from lema_core.llm import Completion, Engine
from lema_core.llm.progress import figures
from lema_core.llm.settings import EngineSettings


async def until_true(moment) -> None:
    async with asyncio.timeout(20):
        while not moment():  # noqa: ASYNC110 - an engine is looked at, it signals nothing
            await asyncio.sleep(0.01)


async def test_requests_that_another_process_pays_for_are_counted(fake, spec, ask, ledger) -> None:
    fake.latency = 1.0
    async with Engine.open(ledger=ledger) as one, Engine.open(ledger=ledger) as two:
        paying = asyncio.create_task(one.complete(spec, ask(1)[0]))
        await until_true(lambda: fake.in_flight == 1)
        waiting = asyncio.create_task(two.complete(spec, ask(1)[0]))
        await until_true(lambda: two.snapshot().claimed == 1)
        assert figures(two.snapshot())["waiting for another process"] == "1 request"
        assert figures(one.snapshot()).keys().isdisjoint({"waiting for another process"})
        assert await paying == await waiting
        assert two.snapshot().claimed == 0
    assert fake.hits == 1


async def test_a_lock_on_the_ledger_is_in_the_line_while_it_lasts(fake, spec, ask, ledger) -> None:
    async with Engine.open(ledger=ledger, settings=EngineSettings(ledger_locked_s=0.1)) as engine:
        other = sqlite3.connect(ledger, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        work = asyncio.create_task(engine.complete(spec, ask(1)[0]))
        await until_true(lambda: "waiting for the ledger" in figures(engine.snapshot()))
        assert not work.done()
        other.execute("ROLLBACK")
        other.close()
        assert isinstance(await work, Completion)
        assert "waiting for the ledger" not in figures(engine.snapshot())

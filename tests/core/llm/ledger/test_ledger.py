import os
import random
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lema_core.errors import DataError, LedgerError
from lema_core.llm import Completion, CompletionRequest, Sampling, request_key
from lema_core.llm.ledger import claims as claims_module
from lema_core.llm.ledger import database as database_module
from lema_core.llm.ledger.claims import LEASE_S, STUCK_S, Claims, owner_is_alive
from lema_core.llm.ledger.credit import Amount, Budget, CreditLine
from lema_core.llm.ledger.database import connect, is_postgres
from lema_core.llm.ledger.files import diff_requests, export_ledger, find_entry, import_ledger, move_ledger
from lema_core.llm.ledger.store import CompletionEntry, FailureEntry, LedgerStore, pack
from lema_core.llm.requests import canonical_request, key_json
from lema_core.llm.settings import DEFAULTS
from lema_core.system.processes import ProcessIdentity


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    server = request.getfixturevalue("postgres")
    name = f"t{time.monotonic_ns()}"
    connect(server.url("postgres"), []).query(f"CREATE DATABASE {name}")
    return server.url(name)


def paid(index: int, text: str = "The answer is 42.", cost: float | None = 0.5) -> CompletionEntry:
    request = CompletionRequest(({"role": "user", "content": f"question {index}"},), Sampling(temperature=0.7))
    completion = Completion(request_key("m", request), text, "stop", 20, 10, "m-1")
    return CompletionEntry("m", key_json(canonical_request("m", request)), completion, cost)


def test_what_was_committed_comes_back(url) -> None:
    store = LedgerStore(url)
    entries = [paid(index, "zero \0, é, 数") for index in range(1200)]
    store.commit(entries, "run")
    keys = [one.completion.key for one in entries]
    assert LedgerStore(url).lookup([*keys, "unknown"]) == {one.completion.key: one.completion for one in entries}


def test_the_first_commit_stands_and_the_second_is_counted_as_paid(url) -> None:
    first, second = LedgerStore(url), LedgerStore(url)
    assert first.commit([paid(1, "a"), paid(2, "b")], "run") == [paid(1, "a").completion, paid(2, "b").completion]
    assert second.commit([paid(1, "other"), paid(3, "c")], "run") == [paid(1, "a").completion, paid(3, "c").completion]
    assert first.totals("run") == [("run", 3, 1, 80, 40, 2.0)]


def thought(index: int, thinking: str = "Okay, 6 x 7.", cached: int = 16, reasoning: int = 8) -> CompletionEntry:
    entry = paid(index)
    details: dict[str, Any] = {"thinking": thinking, "cached_tokens": cached, "reasoning_tokens": reasoning}
    return replace(entry, completion=replace(entry.completion, **details))


def test_thinking_cached_and_reasoning_tokens_come_back(url) -> None:
    entries = [thought(1), thought(2, "", 0, 3), thought(3, "zero \0, é", 0, 0), paid(4)]
    LedgerStore(url).commit(entries, "run")
    keys = [one.completion.key for one in entries]
    assert LedgerStore(url).lookup(keys) == {one.completion.key: one.completion for one in entries}


def test_thinking_that_an_older_version_stored_in_the_text_is_separated(url) -> None:
    entry = paid(1, "<think>Maybe 70.</think>\n\nThe answer is 72.")
    cut = paid(2, "<think>Maybe the answer is 70")
    LedgerStore(url).commit([entry, cut], "run")
    found = LedgerStore(url).lookup([entry.completion.key, cut.completion.key])
    assert found[entry.completion.key] == replace(entry.completion, text="The answer is 72.", thinking="Maybe 70.")
    assert found[cut.completion.key] == replace(cut.completion, text="", thinking="Maybe the answer is 70")


def test_details_never_stand_beside_another_processes_answer(url) -> None:
    first, second = LedgerStore(url), LedgerStore(url)
    first.commit([paid(1)], "run")
    assert second.commit([thought(1)], "run") == [paid(1).completion]
    assert first.lookup([paid(1).completion.key]) == {paid(1).completion.key: paid(1).completion}
    second.commit([thought(2)], "run")
    assert first.commit([thought(2)], "run", is_retry=True) == [thought(2).completion]
    assert first.totals("run") == [("run", 2, 1, 60, 30, 1.5)], "the retried commit is not paid twice"


def test_ledgers_of_older_versions_open_and_older_versions_write_into_ours(url) -> None:
    old = LedgerStore(url)
    old.commit([paid(1)], "run")
    old.database.query("DROP TABLE completion_details")
    store = LedgerStore(url)
    assert store.lookup([paid(1).completion.key]) == {paid(1).completion.key: paid(1).completion}
    store.commit([thought(2)], "run")
    # As ed9aa76 commits: all columns that it knows, without their names.
    row = (
        paid(3).completion.key,
        "m",
        pack(paid(3).request),
        b"The answer is 42.",
        "stop",
        20,
        10,
        "m-1",
        0.5,
        "r",
        "d",
    )
    assert old.database.insert("completions", [row]) == 1
    assert store.lookup([row[0]]) == {row[0]: paid(3).completion}


def test_failures_are_counted_apart_and_never_served(url) -> None:
    store = LedgerStore(url)
    one = paid(1)
    missed = FailureEntry("m", one.request, one.completion.key, "server_error", "HTTP 500", 5)
    store.commit([missed, missed], "run")
    assert store.lookup([one.completion.key]) == {}
    assert store.totals("endpoint") == [("m", 0, 10, 0, 0, None)]
    assert find_entry(store, one.completion.key[:12])["failures"][0]["count"] == 10


def test_money_and_tokens_of_a_run(url) -> None:
    store = LedgerStore(url)
    store.commit([paid(1), paid(2, cost=None)], "a")
    store.commit([paid(3)], "b")
    assert store.spent("a") == (0.5, 60)
    assert [row[0] for row in store.totals("run")] == ["a", "b"]
    assert len(store.totals("day")) == 1


def test_claims_keep_others_off_until_the_commit_or_the_end(url) -> None:
    store, other = LedgerStore(url), LedgerStore(url)
    mine, theirs = Claims(store), Claims(other)
    mine.register()
    theirs.register()
    key = paid(1).completion.key
    assert mine.claim([key, "x"]) == set()
    assert theirs.claim([key, "y"]) == {key}
    assert mine.claim([key]) == set()
    store.commit([paid(1)], "run")
    assert theirs.claim([key]) == set()
    mine.unregister()
    assert theirs.claim(["x"]) == set()


def test_claims_of_a_dead_process_are_void(url) -> None:
    store, other = LedgerStore(url), LedgerStore(url)
    dead = Claims(store)
    dead.register()
    dead.claim(["x"])
    # Another process had this id: its start time tells.
    store.database.query("UPDATE owners SET started = started - 1000 WHERE owner = ?", (dead.owner,))
    living = Claims(other)
    living.register()
    assert living.claim(["x"]) == set()


class Clocks:
    """The clocks that claims look at, moved by hand: the monotonic one, and the wall clock that may be set."""

    def __init__(self) -> None:
        self.elapsed, self.wall = 1000.0, 1.8e9

    def monotonic(self) -> float:
        return self.elapsed

    def time(self) -> float:
        return self.wall

    def pass_by(self, seconds: float) -> None:
        self.elapsed += seconds
        self.wall += seconds


@pytest.fixture
def clocks(monkeypatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(claims_module, "time", clocks)
    monkeypatch.setattr(database_module, "time", clocks)
    return clocks


def elsewhere(owner: Claims) -> Claims:
    """Make an owner one of another machine, of which only signs of life can be seen."""
    owner._process = owner._process.model_copy(update={"machine": "elsewhere/boot/ns"})
    return owner


@pytest.mark.parametrize("step", [0, 2, -2, 700, -86_400, 86_400, 1e9, -1.7e9])
def test_no_step_of_the_clock_makes_a_living_process_of_this_machine_dead(tmp_path, clocks, step) -> None:
    url = str(tmp_path / "ledger.sqlite")
    working, watching = Claims(LedgerStore(url)), Claims(LedgerStore(url))
    working.register()
    watching.register()
    working.claim(["x"])
    clocks.wall += step
    watching.heartbeat()
    newcomer = Claims(LedgerStore(url))
    newcomer.register()
    assert watching.claim(["x"]) == newcomer.claim(["x"]) == {"x"}


@pytest.mark.parametrize("step", [0, 2, -2, 700, -86_400, 86_400, 1e9, -1.7e9])
def test_no_step_of_the_clock_makes_a_watched_process_of_another_machine_dead(tmp_path, clocks, step) -> None:
    url = str(tmp_path / "ledger.sqlite")
    working, watching = elsewhere(Claims(LedgerStore(url))), Claims(LedgerStore(url))
    working.register()
    watching.register()
    working.claim(["x"])
    clocks.wall += step
    for _ in range(30):
        clocks.pass_by(DEFAULTS.heartbeat_s)
        watching.heartbeat()
        assert watching.claim(["x"]) == {"x"}
        working.heartbeat()


@pytest.mark.parametrize("step", [0, 2, -2, 700, -86_400, 86_400])
@pytest.mark.parametrize("machine", ["here", "elsewhere"])
def test_a_dead_process_is_waited_for_a_minute_at_most_whatever_the_clock_does(tmp_path, clocks, step, machine) -> None:
    url = str(tmp_path / "ledger.sqlite")
    dead, watching = Claims(LedgerStore(url)), Claims(LedgerStore(url))
    if machine == "elsewhere":
        elsewhere(dead)
    else:
        dead._process = dead._process.model_copy(update={"started": dead._process.started - 1})
    dead.register()
    dead.claim(["x"])
    if machine == "elsewhere":
        watching.register()
    clocks.wall += step
    for _ in range(round(LEASE_S / DEFAULTS.heartbeat_s) if machine == "elsewhere" else 1):
        clocks.pass_by(DEFAULTS.heartbeat_s)
        watching.heartbeat()
    assert watching.claim(["x"]) == set()


@pytest.mark.parametrize("age", [-1e9, -86_400, -61, 61, 86_400])
def test_a_sign_of_life_of_another_machine_that_is_old_or_in_the_future_is_none(tmp_path, clocks, age) -> None:
    url = str(tmp_path / "ledger.sqlite")
    dead, newcomer = elsewhere(Claims(LedgerStore(url))), Claims(LedgerStore(url))
    dead.register()
    dead.claim(["x"])
    clocks.wall += age
    assert not owner_is_alive(dead._process, url)
    newcomer.register()
    assert newcomer.claim(["x"]) == set()


def test_clocks_that_disagree_by_less_than_a_minute_do_no_harm(tmp_path, clocks) -> None:
    url = str(tmp_path / "ledger.sqlite")
    working, newcomer = elsewhere(Claims(LedgerStore(url))), Claims(LedgerStore(url))
    working.register()
    working.claim(["x"])
    for ahead in (59, -118):
        clocks.wall += ahead
        assert owner_is_alive(working._process, url)
        newcomer.register()
        assert newcomer.claim(["x"]) == {"x"}


def test_a_process_that_is_stopped_for_ten_minutes_blocks_nobody(tmp_path, clocks) -> None:
    url = str(tmp_path / "ledger.sqlite")
    stuck, waiting = Claims(LedgerStore(url)), Claims(LedgerStore(url))
    stuck.register()
    stuck.claim(["x"])
    waiting.register()
    for _ in range(round(STUCK_S / DEFAULTS.heartbeat_s)):
        assert waiting.claim(["x"]) == {"x"}
        clocks.pass_by(DEFAULTS.heartbeat_s)
        waiting.heartbeat()
    assert waiting.claim(["x"]) == set()


def test_others_are_not_blamed_for_the_time_in_which_we_did_not_look(tmp_path, clocks) -> None:
    url = str(tmp_path / "ledger.sqlite")
    working, suspended = elsewhere(Claims(LedgerStore(url))), Claims(LedgerStore(url))
    working.register()
    suspended.register()
    working.claim(["x"])
    clocks.pass_by(90)  # the database was away for both
    suspended.heartbeat()
    assert suspended.claim(["x"]) == {"x"}


@pytest.mark.parametrize("started", [1_750_000_000.5, 12_345.0])
def test_an_owner_that_an_older_version_wrote_lives_by_its_signs(tmp_path, clocks, started) -> None:
    url = str(tmp_path / "ledger.sqlite")
    store, claims = LedgerStore(url), Claims(LedgerStore(url))
    machine = f"{socket.gethostname()}/1750000000/pid:[4026531836]"
    old = ("old", machine, os.getpid(), started, clocks.wall)
    store.database.query("INSERT INTO owners VALUES (?,?,?,?,?)", old)
    store.database.query("INSERT INTO claims VALUES ('x', 'old')")
    claims.register()
    assert claims.claim(["x"]) == {"x"}
    assert owner_is_alive(ProcessIdentity(machine=machine, pid=os.getpid(), started=started), url)
    for _ in range(12):
        clocks.pass_by(DEFAULTS.heartbeat_s)
        claims.heartbeat()
    assert claims.claim(["x"]) == set()


def test_the_lease_is_measured_by_the_servers_clock_where_there_is_one(url, monkeypatch) -> None:
    store = LedgerStore(url)
    if not is_postgres(url):
        assert abs(store.database.clock() - time.time()) < 5
        return
    clock = store.database.clock()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= store.database.clock() - clock < 60


def test_claims_that_nobody_owns_any_more_are_void(url) -> None:
    lost = Claims(LedgerStore(url))
    lost.claim(["x"])
    living = Claims(LedgerStore(url))
    living.register()
    assert living.claim(["x"]) == set()


def test_claims_on_the_same_keys_in_any_order_never_lock_each_other_out(url) -> None:
    together = threading.Barrier(4)

    def claimed(seed: int) -> list[str]:
        store = LedgerStore(url)
        claims, order = Claims(store), random.Random(seed)  # noqa: S311 - an order, not a secret
        claims.register()
        ours: list[str] = []
        for turn in range(20):
            keys = [f"{turn} {number}" for number in range(400)]
            order.shuffle(keys)
            together.wait(60)
            ours += set(keys) - claims.claim(keys)
        store.close()
        return ours

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(claimed, range(4)))
    assert sorted(key for ours in found for key in ours) == sorted(f"{t} {n}" for t in range(20) for n in range(400))


def test_a_commit_of_which_nobody_heard_is_not_counted_twice(url) -> None:
    store = LedgerStore(url)
    store.commit([paid(1)], "r")
    store.commit([paid(1)], "r", is_retry=True)
    assert store.spent("r") == (0.5, 30)
    store.commit([paid(1)], "r")
    assert store.spent("r") == (1.0, 60)


def test_a_ledger_moves_with_its_batches_and_failures(url, tmp_path) -> None:
    old, new = LedgerStore(str(tmp_path / "old.sqlite")), LedgerStore(url)
    old.commit([thought(1), FailureEntry("m", "{}", "k", "server_error", "500", cost=0.25, prompt_tokens=3)], "r")
    old.database.query("INSERT INTO batches VALUES ('b', 'm', 'r', 'gone', 'remote', 'submitted')")
    old.database.query("INSERT INTO batch_lines VALUES ('b', 'k2', ?, 1, NULL, 7.0, 100.0)", (pack("{}"),))
    old.database.query("INSERT INTO batch_places VALUES ('b', 'http://there/v1')")
    move_ledger(old, new)
    assert new.spent("r") == old.spent("r") == (0.75, 33)
    assert new.lookup([paid(1).completion.key]) == {paid(1).completion.key: thought(1).completion}
    found = new.database.query("SELECT remote, key FROM batches JOIN batch_lines ON batch = id")
    assert found == [("remote", "k2")]
    assert new.database.query("SELECT * FROM batch_places") == [("b", "http://there/v1")]
    credit = CreditLine(new, "r", "me", Budget(dollars=8))
    assert credit.request(Amount(dollars=0.5)).granted == Amount(), "7 are under way and 0.75 are spent"
    assert credit.request(Amount(dollars=0.2)).granted.dollars >= 0.2


def test_processes_of_a_pool_are_counted(url) -> None:
    one, other = Claims(LedgerStore(url)), Claims(LedgerStore(url))
    one.register()
    other.register()
    assert (one.join_pool("pool"), other.join_pool("pool"), other.join_pool("elsewhere")) == (1, 2, 1)
    assert one.heartbeat() == {"pool": 2}
    other.unregister()
    assert one.heartbeat() == {"pool": 1}


def test_many_open_a_new_ledger_at_once(url) -> None:
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            store = LedgerStore(url)
            claims = Claims(store)
            claims.register()
            store.commit([paid(number * 100 + index) for index in range(20)], "run")
            claims.unregister()
            store.close()
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert LedgerStore(url).totals("run")[0][1] == 160


def test_export_and_import(url, tmp_path) -> None:
    store = LedgerStore(url)
    store.commit([paid(index) for index in range(2499)] + [thought(2499)], "run")
    assert export_ledger(store, tmp_path / "out.parquet") == 2500
    copy = LedgerStore(str(tmp_path / "copy.sqlite"))
    copy.commit([paid(0, "mine")], "other")
    assert import_ledger(copy, tmp_path / "out.parquet") == (2500, 2499)
    assert copy.lookup([paid(0).completion.key])[paid(0).completion.key].text == "mine"
    assert copy.lookup([paid(2499).completion.key]) == {paid(2499).completion.key: thought(2499).completion}
    older = pq.read_table(tmp_path / "out.parquet").drop_columns(["thinking", "cached_tokens", "reasoning_tokens"])
    pq.write_table(older, tmp_path / "older.parquet")
    assert import_ledger(LedgerStore(str(tmp_path / "from_older.sqlite")), tmp_path / "older.parquet") == (2500, 2500)
    assert find_entry(copy, paid(7).completion.key)["request"] == find_entry(store, paid(7).completion.key)["request"]


def test_an_import_refuses_an_answer_under_the_wrong_key(tmp_path) -> None:
    store = LedgerStore(str(tmp_path / "a"))
    right, wrong = paid(1), paid(2)
    store.commit([CompletionEntry("m", wrong.request, right.completion, None)], "run")
    export_ledger(store, tmp_path / "out.parquet")
    with pytest.raises(DataError, match="another key"):
        import_ledger(LedgerStore(str(tmp_path / "b")), tmp_path / "out.parquet")
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(DataError, match="no export"):
        import_ledger(store, tmp_path / "no.parquet")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"no columns \['completion_tokens', .* `lema ledger export` writes one"):
        import_ledger(store, tmp_path / "other.parquet")


def test_why_two_keys_differ() -> None:
    one = canonical_request("m", CompletionRequest(({"role": "user", "content": "a"},), Sampling(temperature=1.0)))
    other = canonical_request("m", CompletionRequest(({"role": "user", "content": "b"},), Sampling(), 1))
    assert diff_requests(one, other) == [
        'request.messages[0].content: "a" against "b"',
        "request.params.temperature: 1 against absent",
        "request.sample_index: 0 against 1",
    ]
    assert diff_requests(one, one) == []


def test_errors_name_the_place_and_the_remedy(tmp_path) -> None:
    (tmp_path / "no.db").write_text("this is no database, whatever its name says" * 50)
    with pytest.raises(LedgerError, match=r"no\.db"):
        LedgerStore(str(tmp_path / "no.db"))
    with pytest.raises(LedgerError, match="no key begins"):
        find_entry(LedgerStore(str(tmp_path / "a")), "ffff")
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1/none") as caught:
        LedgerStore("postgresql://me@127.0.0.1:9/none")
    assert "me@" not in str(caught.value)


def test_a_torn_tail_of_the_log_loses_only_what_was_not_committed(tmp_path) -> None:
    path = tmp_path / "ledger.sqlite"
    store = LedgerStore(str(path))
    store.commit([paid(1)], "run")
    log = path.with_name("ledger.sqlite-wal")
    whole = log.read_bytes()
    store.commit([paid(2)], "run")
    torn = tmp_path / "torn"
    torn.mkdir()
    shutil.copy(path, torn / "ledger.sqlite")
    both = log.read_bytes()
    (torn / "ledger.sqlite-wal").write_bytes(both[: (len(whole) + len(both)) // 2])
    keys = [paid(1).completion.key, paid(2).completion.key]
    assert list(LedgerStore(str(torn / "ledger.sqlite")).lookup(keys)) == keys[:1]

import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lema_core.errors import DataError, LedgerError
from lema_core.llm import Completion, CompletionRequest, Sampling, request_key
from lema_core.llm.ledger.claims import Claims
from lema_core.llm.ledger.credit import Amount, Budget, Credit
from lema_core.llm.ledger.database import connect
from lema_core.llm.ledger.files import differences, entry, export_ledger, import_ledger, move_ledger
from lema_core.llm.ledger.store import LedgerStore, Missed, Paid, pack
from lema_core.llm.requests import canonical_json, canonical_request


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    server = request.getfixturevalue("postgres")
    name = f"t{time.monotonic_ns()}"
    connect(server.url("postgres"), []).query(f"CREATE DATABASE {name}")
    return server.url(name)


def paid(index: int, text: str = "The answer is 42.", cost: float | None = 0.5) -> Paid:
    request = CompletionRequest(({"role": "user", "content": f"question {index}"},), Sampling(temperature=0.7))
    completion = Completion(request_key("m", request), text, "stop", 20, 10, "m-1")
    return Paid("m", canonical_json(canonical_request("m", request)), completion, cost)


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


def test_failures_are_counted_apart_and_never_served(url) -> None:
    store = LedgerStore(url)
    one = paid(1)
    missed = Missed("m", one.request, one.completion.key, "server_error", "HTTP 500", 5)
    store.commit([missed, missed], "run")
    assert store.lookup([one.completion.key]) == {}
    assert store.totals("endpoint") == [("m", 0, 10, 0, 0, None)]
    assert entry(store, one.completion.key[:12])["failures"][0]["count"] == 10


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
    mine.join()
    theirs.join()
    key = paid(1).completion.key
    assert mine.claim([key, "x"]) == set()
    assert theirs.claim([key, "y"]) == {key}
    assert mine.claim([key]) == set()
    store.commit([paid(1)], "run")
    assert theirs.claim([key]) == set()
    mine.leave()
    assert theirs.claim(["x"]) == set()


def test_claims_of_a_dead_process_are_void(url) -> None:
    store, other = LedgerStore(url), LedgerStore(url)
    dead = Claims(store)
    dead.join()
    dead.claim(["x"])
    # Another process had this id: its start time tells.
    store.database.query("UPDATE owners SET started = started - 1000 WHERE owner = ?", (dead.owner,))
    living = Claims(other)
    living.join()
    assert living.claim(["x"]) == set()


def test_a_process_without_a_sign_of_life_blocks_nobody(url) -> None:
    stuck = Claims(LedgerStore(url))
    stuck.join()
    stuck.claim(["x"])
    stuck._store.database.query("UPDATE owners SET beat = beat - 700")
    living = Claims(LedgerStore(url))
    living.join()
    assert living.claim(["x"]) == set()


def test_claims_that_nobody_owns_any_more_are_void(url) -> None:
    lost = Claims(LedgerStore(url))
    lost.claim(["x"])
    living = Claims(LedgerStore(url))
    living.join()
    assert living.claim(["x"]) == set()


def test_claims_on_the_same_keys_in_any_order_never_lock_each_other_out(url) -> None:
    together = threading.Barrier(4)

    def claimed(seed: int) -> list[str]:
        store = LedgerStore(url)
        claims, order = Claims(store), random.Random(seed)  # noqa: S311 - an order, not a secret
        claims.join()
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
    store.commit([paid(1)], "r", again=True)
    assert store.spent("r") == (0.5, 30)
    store.commit([paid(1)], "r")
    assert store.spent("r") == (1.0, 60)


def test_a_ledger_moves_with_its_batches_and_failures(url, tmp_path) -> None:
    old, new = LedgerStore(str(tmp_path / "old.sqlite")), LedgerStore(url)
    old.commit([paid(1), Missed("m", "{}", "k", "server_error", "500", cost=0.25, prompt_tokens=3)], "r")
    old.database.query("INSERT INTO batches VALUES ('b', 'm', 'r', 'gone', 'remote', 'submitted')")
    old.database.query("INSERT INTO batch_lines VALUES ('b', 'k2', ?, 1, NULL, 7.0, 100.0)", (pack("{}"),))
    old.database.query("INSERT INTO batch_places VALUES ('b', 'http://there/v1')")
    move_ledger(old, new)
    assert new.spent("r") == old.spent("r") == (0.75, 33)
    found = new.database.query("SELECT remote, key FROM batches JOIN batch_lines ON batch = id")
    assert found == [("remote", "k2")]
    assert new.database.query("SELECT * FROM batch_places") == [("b", "http://there/v1")]
    credit = Credit(new, "r", "me", Budget(dollars=8))
    assert credit.draw(Amount(dollars=0.5)).granted == Amount(), "7 are under way and 0.75 are spent"
    assert credit.draw(Amount(dollars=0.2)).granted.dollars >= 0.2


def test_processes_of_a_pool_are_counted(url) -> None:
    one, other = Claims(LedgerStore(url)), Claims(LedgerStore(url))
    one.join()
    other.join()
    assert (one.share("pool"), other.share("pool"), other.share("elsewhere")) == (1, 2, 1)
    assert one.beat() == {"pool": 2}
    other.leave()
    assert one.beat() == {"pool": 1}


def test_many_open_a_new_ledger_at_once(url) -> None:
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            store = LedgerStore(url)
            claims = Claims(store)
            claims.join()
            store.commit([paid(number * 100 + index) for index in range(20)], "run")
            claims.leave()
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
    store.commit([paid(index) for index in range(2500)], "run")
    assert export_ledger(store, tmp_path / "out.parquet") == 2500
    copy = LedgerStore(str(tmp_path / "copy.sqlite"))
    copy.commit([paid(0, "mine")], "other")
    assert import_ledger(copy, tmp_path / "out.parquet") == (2500, 2499)
    assert copy.lookup([paid(0).completion.key])[paid(0).completion.key].text == "mine"
    assert entry(copy, paid(7).completion.key)["request"] == entry(store, paid(7).completion.key)["request"]


def test_an_import_refuses_an_answer_under_the_wrong_key(tmp_path) -> None:
    store = LedgerStore(str(tmp_path / "a"))
    right, wrong = paid(1), paid(2)
    store.commit([Paid("m", wrong.request, right.completion, None)], "run")
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
    assert differences(one, other) == [
        'request.messages[0].content: "a" against "b"',
        "request.params.temperature: 1 against absent",
        "request.sample_index: 0 against 1",
    ]
    assert differences(one, one) == []


def test_errors_name_the_place_and_the_remedy(tmp_path) -> None:
    (tmp_path / "no.db").write_text("this is no database, whatever its name says" * 50)
    with pytest.raises(LedgerError, match=r"no\.db"):
        LedgerStore(str(tmp_path / "no.db"))
    with pytest.raises(LedgerError, match="no key begins"):
        entry(LedgerStore(str(tmp_path / "a")), "ffff")
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1/none") as caught:
        LedgerStore("postgresql://me:secret@127.0.0.1:9/none")
    assert "secret" not in str(caught.value)


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

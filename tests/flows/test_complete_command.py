import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support import PATIENCE_S, killed_at, run_lema, until

SERVER = """
import asyncio, json, sys
from collections import Counter
from aiohttp import web

paid = Counter()
latency, fail = float(sys.argv[1]), int(sys.argv[2])
in_flight = [0, 0]
# Proxies tell what they were sent.
echoes = {
    "-1": (200, '{"error": {"message": "wrong key: %s"}}'),
    "-2": (400, '{"error": {"message": "wrong key: %s"}}'),
    "-3": (200, "<html>%s</html>"),
    "-4": (500, "%s"),
}


async def chat(request):
    body = await request.json()
    text = body["messages"][-1]["content"]
    in_flight[0] += 1
    in_flight[1] = max(in_flight)
    if text.split()[-1] == "-5":
        return web.json_response({"error": {"message": "no credit"}}, status=402)
    await asyncio.sleep(latency)
    in_flight[0] -= 1
    if text.split()[-1] in echoes:
        status, shape = echoes[text.split()[-1]]
        return web.Response(text=shape % request.headers["Authorization"], status=status)
    if fail and int(text.split()[-1]) % fail == 0:
        return web.json_response({"error": {"message": "always"}}, status=500)
    paid[text] += 1
    message = {"role": "assistant", "content": f"answer to {text}"}
    usage = {"prompt_tokens": 20, "completion_tokens": 10}
    choice = {"message": message, "finish_reason": "stop"}
    return web.json_response({"model": "fake-1", "choices": [choice], "usage": usage})


async def stats(_):
    return web.json_response({"paid": sum(paid.values()), "distinct": len(paid), "most": in_flight[1]})


async def main():
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", lambda _: web.json_response({"data": []}))
    app.router.add_get("/stats", stats)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
"""


class Server:
    def __init__(self, latency: float = 0.01, fail: int = 0) -> None:
        command = [sys.executable, "-c", SERVER, str(latency), str(fail)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats") as answer:
            return json.load(answer)


@pytest.fixture
def start() -> Iterator[Any]:
    servers: list[Server] = []

    def make(**settings: Any) -> Server:
        servers.append(Server(**settings))
        return servers[-1]

    yield make
    for server in servers:
        server.process.kill()
        server.process.wait()


def lines(path: Path, numbers: list[int], **params: Any) -> Path:
    rows = [
        {"id": f"r{row}", "messages": [{"role": "user", "content": f"question {number}"}]}
        | ({"params": params} if params else {})
        for row, number in enumerate(numbers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(requests: Path, server: Server, out: Path, *more: str) -> list[str]:
    start = "from flows.cli import app; app()"
    options = ["--base-url", server.url, "--model", "fake", "--out", str(out)]
    return [sys.executable, "-c", start, "complete", str(requests), *options, *more]


def complete(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    words = command(*arguments)[3:]
    return run_lema(*words, cwd=Path.cwd(), env=os.environ | {"COLUMNS": "200"} | environment, timeout=120)


def table(out: Path, name: str = "completions") -> list[dict[str, Any]]:
    return pq.read_table(out / f"{name}.parquet").to_pylist()


def test_answers_come_in_the_files_order_and_identical_ones_are_paid_once(start, tmp_path) -> None:
    server = start()
    requests = lines(tmp_path / "r.jsonl", [row % 10 for row in range(100)])
    done = complete(requests, server, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "out")
    assert [row["id"] for row in rows] == [f"r{row}" for row in range(100)]
    assert rows[13]["text"] == "answer to question 3"
    assert server.stats()["paid"] == 10


def test_a_file_that_grows_pays_only_what_is_new(start, tmp_path) -> None:
    server = start()
    out = tmp_path / "out"
    complete(lines(tmp_path / "a.jsonl", list(range(20))), server, out)
    complete(lines(tmp_path / "b.jsonl", list(range(21))[::-1], user="somebody"), server, out)
    assert server.stats()["paid"] == 21
    assert table(out)[0]["text"] == "answer to question 20"
    other = start()
    assert "0 bought" in complete(tmp_path / "a.jsonl", other, out).stdout
    complete(tmp_path / "a.jsonl", other, out, "--identity", "another")
    assert other.stats()["paid"] == 20


def test_a_complete_folder_is_not_made_again_and_a_damaged_one_is(start, tmp_path) -> None:
    server, out = start(), tmp_path / "out"
    requests = lines(tmp_path / "r.jsonl", list(range(5)))
    complete(requests, server, out)
    before = (out / "completions.parquet").read_bytes()
    assert "are complete" in complete(requests, server, out).stdout
    (out / "completions.parquet").write_bytes(before[:-10])
    complete(requests, server, out)
    assert (out / "completions.parquet").read_bytes() == before
    assert server.stats()["paid"] == 5


def test_rows_that_always_fail_have_a_file_of_their_own_and_only_they_are_tried_again(start, tmp_path) -> None:
    server, out = start(fail=10), tmp_path / "out"
    requests = lines(tmp_path / "r.jsonl", list(range(30)))
    done = complete(requests, server, out)
    assert done.returncode == 0
    assert "3 rejected (3 server_error)" in done.stdout
    assert [(row["id"], row["reason"], row["detail"]) for row in table(out, "rejected")] == [
        (f"r{number}", "server_error", "HTTP 500: always") for number in (0, 10, 20)
    ]
    assert len(table(out)) == 27
    well = start()
    complete(requests, well, out)
    assert well.stats()["paid"] == 3
    assert (len(table(out)), len(table(out, "rejected"))) == (30, 0)


def test_a_file_of_which_nothing_is_answered_has_exit_status_1_and_the_endpoints_words(start, tmp_path) -> None:
    server, out = start(fail=1), tmp_path / "out"
    done = complete(lines(tmp_path / "r.jsonl", [1, 2, 3]), server, out)
    assert done.returncode == 1
    assert "  3 server_error, such as: HTTP 500: always" in done.stdout
    assert "answered none of 3 requests: 3 server_error (HTTP 500: always)" in done.stderr
    assert len(table(out, "rejected")) == 3
    # The answers of an earlier run count: some of the file is answered.
    well = start()
    assert complete(lines(tmp_path / "r.jsonl", [1, 2, 3]), well, out).returncode == 0
    assert complete(lines(tmp_path / "r.jsonl", [1, 2, 3, 4]), server, out).returncode == 0


def test_an_error_that_ends_the_run_speaks_of_no_ctrl_c(start, tmp_path) -> None:
    server = start(latency=1.0)
    # The first line ends the run while the second is out.
    requests = lines(tmp_path / "r.jsonl", [-5, 5])
    done = complete(requests, server, tmp_path / "out")
    assert done.returncode == 1
    assert "waiting for 1 answers that are under way and paid" in done.stderr
    assert "Ctrl-C" not in done.stderr


@pytest.mark.parametrize("kills", [(5, 110)])
def test_killed_and_repeated_the_output_is_the_same(start, tmp_path, kills) -> None:
    server = start(latency=0.03)
    requests = lines(tmp_path / "r.jsonl", list(range(150)))
    for paid in kills:
        words = command(requests, server, tmp_path / "out", "--concurrency", "8")
        killed_at(f"{paid} answers", lambda paid=paid: server.stats()["paid"] >= paid, words)
    assert complete(requests, server, tmp_path / "out", "--concurrency", "8").returncode == 0
    stats = server.stats()
    assert stats["distinct"] == 150
    assert stats["paid"] - 150 <= 8 * len(kills)
    complete(requests, start(), tmp_path / "undisturbed")
    for name in ("completions.parquet", "rejected.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    assert not list((tmp_path / "out").glob(".*"))


def test_ctrl_c_says_what_is_waited_for_and_keeps_it(start, tmp_path) -> None:
    server, out = start(latency=1.0), tmp_path / "out"
    requests = lines(tmp_path / "r.jsonl", list(range(20)))
    words = command(requests, server, out, "--concurrency", "4")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        until("four requests are out", lambda: server.stats()["most"] == 4, process)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert re.search(r"waiting for [1-4] answers that are under way.*another Ctrl-C gives them up", printed)
    kept = server.stats()["paid"]
    assert complete(requests, server, out, "--concurrency", "20").returncode == 0
    assert (0 < kept < 20, server.stats()["paid"]) == (True, 20)


def test_the_weights_of_a_local_model_are_what_answers(start, tmp_path) -> None:
    server = start()
    requests, model = lines(tmp_path / "r.jsonl", [1]), tmp_path / "model.gguf"
    for paid, weights in ((1, "first"), (1, "first"), (2, "second")):
        model.write_text(weights)
        done = complete(requests, server, tmp_path / "out", "--model", model, "--identity", "{weights}")
        assert (done.returncode, server.stats()["distinct"], server.stats()["paid"]) == (0, 1, paid)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["holds no request"]),
        ('{"id": "a"\n', ["line 1", "no JSON"]),
        ('{"id": "a", "messages": [{"role": "user", "content": "x"}]}\n[1]\n', ["line 2", "JSON object"]),
        ('{"id": "a", "messages": []}\n', ["line 1", "at least one message"]),
        ('{"messages": [{"role": "user", "content": "x"}]}\n', ["line 1", "id"]),
        ('{"id": "a", "messages": [{"role": "user"}]}\n', ["line 1", "role and content"]),
        ('{"id": "a", "messages": [{"role": "user", "content": "x"}], "param": {}}\n', ["line 1", "param"]),
        (
            '{"id": "a", "messages": [{"role": "user", "content": "x"}], "params": {"temperature": "hot"}}\n',
            ["line 1", "temperature"],
        ),
        (
            "".join(f'{{"id": "a", "messages": [{{"role": "user", "content": "{text}"}}]}}\n' for text in "xy"),
            ["line 2", "'a'", "line 1"],
        ),
        ('{"id": "a", "messages": [{"role": "user", "content": "\\ud83d"}]}\n', ["line 1", "surrogate"]),
        (
            '{"id": "a", "messages": [{"role": "user", "content": "x"}], "params": {"top_k": NaN}}\n',
            ["line 1", "NaN is no number"],
        ),
        ('{"id": "a", "messages": [{"role": "user", "content": [{"w": -Infinity}]}]}\n', ["line 1", "-Infinity is no"]),
        ('{"id": "a", "messages": [{"role": "user", "content": [{"w": 1e999}]}]}\n', ["line 1", "stable JSON"]),
        ("[" * 50_000 + "\n", ["line 1", "levels deep"]),
        (
            '{"id": "a", "messages": [{"role": "user", "content": %s}]}\n' % ("[" * 900 + "]" * 900),
            ["line 1", "levels deep"],
        ),
    ],
)
def test_a_bad_line_is_one_clear_error_before_anything_is_sent(start, tmp_path, text, words) -> None:
    from lema_core.errors import DataError
    from lema_core.llm.request_files import RequestFile

    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        RequestFile(path)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_command_ends_with_one_message(start, tmp_path) -> None:
    server = start()
    (tmp_path / "r.jsonl").write_text('{"id": "a"\n')
    done = complete(tmp_path / "r.jsonl", server, tmp_path / "out")
    assert done.returncode == 1
    assert "line 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert server.stats()["paid"] == 0


def test_a_key_is_in_nothing_that_is_written(start, tmp_path) -> None:
    secret = "sk-planted-0123456789abcdef"
    server, out = start(fail=3), tmp_path / "out"
    requests = lines(tmp_path / "r.jsonl", list(range(-4, 12)))
    done = complete(requests, server, out, "--api-key-env", "PLANTED", PLANTED=secret)
    details = pq.read_table(out / "rejected.parquet").column("detail").to_pylist()
    assert sum("***" in detail for detail in details) == 4
    dead = Server(latency=0)
    dead.process.kill()
    dead.process.wait()
    lost = complete(lines(tmp_path / "s.jsonl", [99]), dead, out, "--api-key-env", "PLANTED", PLANTED=secret)
    missing = complete(lines(tmp_path / "t.jsonl", [98]), server, tmp_path / "o2", "--api-key-env", "ABSENT_VARIABLE")
    assert (done.returncode, lost.returncode, missing.returncode) == (0, 1, 1)
    assert "ABSENT_VARIABLE" in missing.stderr
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    texts = [one.stdout + one.stderr for one in (done, lost, missing)]
    assert not any(secret.encode() in one for one in written)
    assert not any(secret in one for one in texts)


def crash(words: list[str], server: Server, cwd: Path, sign: int, **env: str) -> bool:
    """Start a process that may dump its core, crash it once the endpoint has answered it; say whether it did dump."""
    cwd.mkdir()
    before = server.stats()["paid"]
    words = ["sh", "-c", 'ulimit -c unlimited 2>/dev/null; exec "$@"', "sh", *words]
    client = subprocess.Popen(
        words, cwd=cwd, env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until("an answer", lambda: server.stats()["paid"] > before, alive=client, every_s=0.02)
        client.send_signal(sign)
        _, status = os.waitpid(client.pid, 0)
    finally:
        client.kill()
    assert os.WTERMSIG(status) == sign
    return os.WCOREDUMP(status)


@pytest.mark.parametrize("sign", [signal.SIGABRT, signal.SIGSEGV])
def test_a_crash_leaves_no_key_in_a_core_dump(start, tmp_path, sign) -> None:
    secret = "sk-planted-0123456789abcdef"
    server = start(latency=0.05)
    ask = (
        f"import time, urllib.request as u; u.urlopen(u.Request('{server.url}/chat/completions', DATA)); time.sleep(60)"
    )
    body = repr(json.dumps({"messages": [{"content": "q 1"}]}).encode())
    if not crash([sys.executable, "-c", ask.replace("DATA", body)], server, tmp_path / "plain", sign, PLANTED=secret):
        pytest.skip("no process dumps its core on this machine")
    requests = lines(tmp_path / "r.jsonl", list(range(5000)))
    words = command(requests, server, tmp_path / "out", "--api-key-env", "PLANTED", "--concurrency", "2")
    assert not crash(words, server, tmp_path / "ours", sign, PLANTED=secret)
    written = [path for folder in ("ours", "out") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert written
    assert not any(secret.encode() in path.read_bytes() for path in written)


def test_a_budget_stops_with_a_message_and_a_larger_one_goes_on(start, tmp_path) -> None:
    server, out = start(), tmp_path / "out"
    requests = lines(tmp_path / "r.jsonl", list(range(40)), max_tokens=10)
    price = ("--price", "1000000,1000000")
    done = complete(requests, server, out, "--budget", "600", *price)
    assert done.returncode == 1
    assert "requests remain" in done.stderr
    assert 0 < server.stats()["paid"] <= 20
    assert not (out / "manifest.json").exists()
    assert complete(requests, server, out, "--budget", "2000", *price).returncode == 0
    assert server.stats()["paid"] == 40


def test_processes_on_one_ledger_share_the_work(start, tmp_path) -> None:
    server = start(latency=0.02)
    requests = lines(tmp_path / "r.jsonl", list(range(60)))
    more = ("--ledger", str(tmp_path / "ledger.sqlite"), "--concurrency", "8")
    clients = [
        subprocess.Popen(command(requests, server, tmp_path / f"out{number}", *more), stderr=subprocess.PIPE)
        for number in range(4)
    ]
    errors = [client.communicate(timeout=120)[1] for client in clients]
    assert [client.returncode for client in clients] == [0] * 4, errors
    assert server.stats()["paid"] == 60
    files = {(tmp_path / f"out{number}" / "completions.parquet").read_bytes() for number in range(4)}
    assert len(files) == 1


def test_the_ledger_tells_what_was_paid(start, tmp_path) -> None:
    server, out = start(), tmp_path / "out"
    complete(lines(tmp_path / "r.jsonl", [1, 2]), server, out)
    keys = [row["request_key"] for row in table(out)]

    def ledger(*words: str) -> str:
        where = ["--ledger", str(out / "ledger.sqlite")]
        done = run_lema("ledger", *words, *where, cwd=tmp_path, env=os.environ | {"COLUMNS": "200"})
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "complete" in ledger()
    early = ("ledger", "--ledger", "other", "export", "f")
    refused = run_lema(*early, cwd=tmp_path, env=os.environ | {"COLUMNS": "200"})
    assert "lema ledger export --ledger" in " ".join(refused.stderr.split())
    assert '"content": "question 1"' in ledger("explain", keys[0])
    assert '"question 1" against "question 2"' in ledger("explain", *keys)
    assert "2 completions" in ledger("export", str(tmp_path / "all.parquet"))
    assert "0 of 2" in ledger("import", str(tmp_path / "all.parquet"))

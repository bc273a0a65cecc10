import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from support import until

from lema_core.errors import EndpointError
from lema_core.llm.endpoints import EndpointSpec, running
from lema_core.llm.engine import Engine
from lema_core.llm.requests import Completion, CompletionRequest, Sampling
from lema_core.llm.settings import EngineSettings

START = """
import asyncio, sys
from lema_core.llm.settings import EngineSettings
from lema_core.llm.endpoints import EndpointSpec, running

async def main():
    command = (sys.executable, "-m", "lema_core.llm.simulated", "--port", "{port}")
    async with running(EndpointSpec(model="fixed", command=command)):
        print("up", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_killed_run_leaves_no_server_behind():
    run = subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "up\n"
    (server,) = psutil.Process(run.pid).children()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    until("the server's end", lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


FRAGILE = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

answers = 0

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({"data": []})

    def do_POST(self):
        global answers
        self.rfile.read(int(self.headers["Content-Length"]))
        answers += 1
        if answers > int(sys.argv[2]):
            print("CUDA out of memory", flush=True)
            os._exit(3)
        message = {"role": "assistant", "content": "The answer is 4."}
        self.reply({"choices": [{"message": message, "finish_reason": "stop"}], "model": "m",
                    "usage": {"prompt_tokens": 3, "completion_tokens": 3}})

    def reply(self, body):
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def fragile(tmp_path, answers: int) -> EndpointSpec:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    command = (sys.executable, str(tmp_path / "fragile.py"), "{port}", str(answers))
    return EndpointSpec(name="student", model="m", command=command, concurrency=4)


async def answered(spec: EndpointSpec, tmp_path, count: int, said: list[str], restarts: int) -> int:
    requests = [CompletionRequest(({"role": "user", "content": f"{n}"},), Sampling()) for n in range(count)]
    async with (
        running(spec, tmp_path / "logs", said.append, EngineSettings(restart_waits_s=(0.1,) * restarts)) as url,
        Engine.open(ledger=str(tmp_path / "ledger.sqlite"), run="r") as engine,
    ):
        return len([one async for one in engine.stream(spec.at(url), requests) if isinstance(one, Completion)])


async def test_a_server_that_dies_is_started_again_at_once_and_no_request_is_lost(tmp_path):
    said: list[str] = []
    assert await answered(fragile(tmp_path, 30), tmp_path, 70, said, restarts=3) == 70
    assert len(said) == 2
    assert "'student' ended with status 3" in said[0]
    assert "CUDA out of memory" in said[0]


async def test_a_server_that_keeps_dying_ends_the_run_with_its_last_words(tmp_path):
    started = time.monotonic()
    with pytest.raises(EndpointError, match=r"started 3 times(?s:.)*CUDA out of memory"):
        await answered(fragile(tmp_path, 0), tmp_path, 20, [], restarts=2)
    # Not after the two minutes that a silent endpoint is given.
    assert time.monotonic() - started < 60
    assert "CUDA" in (tmp_path / "logs" / "student.log").read_text()


async def test_a_cancelled_user_of_a_server_is_cancelled_and_not_failed(tmp_path):
    async def use():
        async with running(fragile(tmp_path, 5)):
            await asyncio.sleep(600)

    task = asyncio.create_task(use())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_server_gets_no_key_but_the_hubs_and_those_that_the_run_file_names(tmp_path, monkeypatch):
    for name in ("OPENAI_KEY", "MY_TEACHER", "HF_TOKEN", "MY_FLAG"):
        monkeypatch.setenv(name, "secret")
    script = "import json, os, sys; open(sys.argv[1], 'w').write(json.dumps(dict(os.environ))); sys.exit(1)"
    command = (sys.executable, "-c", script, str(tmp_path / "seen.json"), "{port}")

    async def start():
        async with running(EndpointSpec(name="s", model="m", command=command, environment=("MY_FLAG",))):
            pass

    with pytest.raises(EndpointError, match="ended with 1"):
        asyncio.run(start())
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert {"OPENAI_KEY", "MY_TEACHER"}.isdisjoint(seen)
    assert {"HF_TOKEN", "MY_FLAG", "PATH"} <= set(seen)

"""What the benchmarks share: a server with faults, files of prompts, what a process took, a Prefect server."""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.local_stack import server as prefect
from lema_core.llm.simulated.server import CONTROL_FROM
from lema_core.system.loopback import free_port

CONTROL = secrets.token_urlsafe(16)
LEMA = [sys.executable, "-c", "from flows.cli import app; app()"]
BARE = """
import asyncio, json, sys
import openai
url, model, path, concurrency = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
async def main():
    client = openai.AsyncOpenAI(base_url=url, api_key="none", http_client=openai.DefaultAioHttpClient(), max_retries=0)
    gate = asyncio.Semaphore(concurrency)
    async def one(row):
        async with gate:
            answer = await client.chat.completions.create(model=model, messages=row["messages"], **row["params"])
            return len(answer.choices[0].message.content)
    with open(path) as file:
        await asyncio.gather(*(one(json.loads(line)) for line in file))
    await client.close()
asyncio.run(main())
"""


@dataclass(frozen=True)
class Used:
    """What one process took."""

    wall: float
    cpu: float
    megabytes: float
    code: int
    output: str


def run(command: list[str]) -> Used:
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        text = out.read()
    cpu = usage.ru_utime + usage.ru_stime
    return Used(time.monotonic() - start, cpu, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status), text)


class Bench:
    """A server, a folder, and the two clients."""

    def __init__(self, base: str, model: str, folder: Path, requests: int) -> None:
        self.base, self.model, self.folder, self.requests = base, model, folder, requests

    def get(self, path: str, post: dict[str, float] | None = None) -> dict[str, float]:
        """Ask the server: a GET, or a POST of JSON; return its figures."""
        with urllib.request.urlopen(control(f"{self.base}/{path}", post)) as answer:  # noqa: S310 - our own server
            text = answer.read()
        return json.loads(text) if text.startswith(b"{") else {}

    def reset(self, **faults: float) -> None:
        """Set the server's counters to zero and what goes wrong."""
        self.get("reset", {})
        self.get("faults", faults)

    def file(self, name: str, numbers: Iterator[int] | range | list[int], **params: object) -> Path:
        """Write a file of requests."""
        path = self.folder / f"{name}.jsonl"
        with path.open("w") as file:
            for row, number in enumerate(numbers):
                messages = [{"role": "user", "content": f"What is {number} plus two? Think step by step and answer."}]
                wanted = {"temperature": 0.7, "max_tokens": 256} | params
                file.write(json.dumps({"id": f"r{row}", "messages": messages, "params": wanted}) + "\n")
        return path

    def command(self, file: Path, out: str, *more: str) -> list[str]:
        """Return the command that answers a file."""
        options = ["--base-url", f"{self.base}/v1", "--model", self.model, "--out", str(self.folder / out)]
        return [*LEMA, "complete", str(file), *options, *more]

    def complete(self, file: Path, out: str, *more: str) -> Used:
        """Run `lema complete`; it must succeed."""
        used = run(self.command(file, out, *more))
        if used.code:
            sys.exit(used.output)
        return used

    def bare(self, file: Path, concurrency: int) -> Used:
        """Run the loop that stores nothing."""
        return run([sys.executable, "-c", BARE, f"{self.base}/v1", self.model, str(file), str(concurrency)])


def control(url: str, post: dict[str, float] | None) -> urllib.request.Request:
    """Return a request to the simulated endpoint: a GET, or a POST of JSON with the control token."""
    data = None if post is None else json.dumps(post).encode()
    return urllib.request.Request(url, data, {"Authorization": f"Bearer {CONTROL}"})  # noqa: S310 - our own server


@contextmanager
def server(latency_s: float = 0.0) -> Iterator[str]:
    """Run the simulated endpoint in a process of its own; give its address."""
    port = free_port()
    process = subprocess.Popen(
        [*LEMA, "simulate", "--port", str(port)], stdout=subprocess.DEVNULL, env=os.environ | {CONTROL_FROM: CONTROL}
    )
    base = f"http://127.0.0.1:{port}"
    faults = control(f"{base}/faults", {"latency_s": latency_s})
    try:
        while True:
            try:
                urllib.request.urlopen(faults).read()  # noqa: S310 - our own server
            except OSError:
                time.sleep(0.1)
            else:
                break
        yield base
    finally:
        process.terminate()
        process.wait()


@contextmanager
def prefect_server(home: Path) -> Iterator[None]:
    """Run a Prefect server of our own and set it for this process; its console is quiet."""
    quiet = prefect.client_settings(home, prefect.start(home)) | {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    }
    os.environ.update(prefect.QUIET | quiet)
    try:
        yield
    finally:
        prefect.stop(home)

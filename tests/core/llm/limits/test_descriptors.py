"""The limit of open files: connections leave enough for the ledger."""

import json
import resource
import subprocess
import sys
import textwrap

import pytest

from lema_core.llm.connection import RESERVED_DESCRIPTORS, DescriptorQuota


@pytest.fixture
def limited(monkeypatch):
    """Give limits of open files to play with, in place of this process's own."""
    limits = {"soft": 1024, "hard": 4096}

    def set_limit(_kind: int, pair: tuple[int, int]) -> None:
        limits["soft"] = pair[0]

    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (limits["soft"], limits["hard"]))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    monkeypatch.setattr("psutil.Process.num_fds", lambda _self: 30)
    return limits


def test_the_soft_limit_is_raised_to_what_is_needed(limited):
    assert DescriptorQuota().grant("a", 2000) == 2000
    assert 2000 < limited["soft"] <= 4096


def test_connections_are_capped_where_the_hard_limit_does_not_allow_them(limited):
    one = DescriptorQuota()
    granted = one.grant("a", 10_000)
    assert 30 + RESERVED_DESCRIPTORS + granted <= 4096
    assert one.not_granted == 10_000 - granted
    # Another endpoint of the same process gets one connection, which is better than none.
    assert one.grant("b", 64) == 1


def test_all_endpoints_together_stay_below_the_limit(limited):
    one = DescriptorQuota()
    granted = [one.grant(name, 512) for name in "abcdefgh"]
    assert sum(granted) + 30 + RESERVED_DESCRIPTORS <= 4096 + 8


def test_the_same_endpoint_again_takes_nothing_more(limited):
    one = DescriptorQuota()
    assert [one.grant("a", 3000), one.grant("a", 3000)] == [3000, 3000]


def test_a_process_with_few_files_loses_nothing(tmp_path):
    """The reproduction: 512 in flight under a hard limit of 128 lost the ledger and what was paid."""
    rows = [{"id": str(one), "messages": [{"role": "user", "content": f"question {one}"}]} for one in range(700)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = textwrap.dedent(
        """
        import asyncio
        from aiohttp import web
        async def chat(request):
            await asyncio.sleep(0.05)
            message = {"role": "assistant", "content": "4"}
            return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})
        async def models(request):
            return web.json_response({"data": []})
        async def main():
            app = web.Application()
            app.router.add_post("/v1/chat/completions", chat)
            app.router.add_get("/v1/models", models)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            print(runner.addresses[0][1], flush=True)
            await asyncio.Event().wait()
        asyncio.run(main())
        """
    )
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            done = subprocess.run(
                [
                    sys.executable, "-c", "from flows.cli import app; app()", "complete", "r.jsonl", "--model", "m",
                    "--base-url", f"http://127.0.0.1:{port}/v1", "--out", "out", "--concurrency", "512",
                ],
                cwd=tmp_path, capture_output=True, text=True, check=False,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)),
            )  # fmt: skip
        finally:
            process.kill()
    assert done.returncode == 0, done.stderr
    assert "700 answered, 0 rejected" in done.stdout
    assert "instead of 512" in done.stderr

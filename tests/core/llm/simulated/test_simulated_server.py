import asyncio
import json
import subprocess
import sys
import urllib.request

import aiohttp
import openai
import pytest
from typer.testing import CliRunner

from lema_core.errors import EndpointError
from lema_core.llm.endpoints import EndpointSpec, running
from lema_core.llm.simulated import Faults, Library, Reply, SimulatedEndpoint
from lema_core.reference_corrector import Problem
from lema_core.system.loopback import free_port

QUESTIONS = [f"Tom has {n} apples and gets 3 more. How many?" for n in range(40)]


@pytest.fixture
def library():
    made = Library()
    for n, text in enumerate(QUESTIONS):
        made.add(Problem(text, str(n + 3), f"Step 1: Tom has {n} + 3 = {n + 3}.\nThe answer is {n + 3}."))
    return made


def body(n=0, model="simulated-teacher", **params):
    return {"model": model, "messages": [{"role": "user", "content": f"Question: {QUESTIONS[n]}"}], **params}


async def post(session, url, content):
    async with session.post(f"{url}/chat/completions", json=content) as response:
        return response.status, await response.json(), response.headers


async def stats(session, endpoint, query=""):
    async with session.get(endpoint.url.removesuffix("/v1") + "/stats" + query) as response:
        return await response.json()


@pytest.mark.parametrize("usage", [None, [1], "7", {"prompt_tokens": "10", "completion_tokens": -3}])
async def test_a_hook_may_write_anything_as_usage_and_as_type_of_content(library, usage):
    odd = {"choices": [], "usage": usage}
    replies = [Reply(200, odd), Reply(200, "data: [DONE]", {"Content-Type": "text/event-stream"})]
    async with (
        SimulatedEndpoint(library, respond=lambda _: replies.pop(0)) as endpoint,
        aiohttp.ClientSession() as session,
    ):
        assert (await post(session, endpoint.url, body()))[:2] == (200, odd)
        async with session.post(f"{endpoint.url}/chat/completions", json=body()) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
            assert await response.text() == "data: [DONE]"


async def test_answers_openai_clients(library):
    async with SimulatedEndpoint(library) as endpoint:
        client = openai.AsyncOpenAI(base_url=endpoint.url, api_key="none", max_retries=0)
        answer = await client.chat.completions.create(**body(4))
        assert answer.choices[0].message.content == "Step 1: Tom has 4 + 3 = 7.\nThe answer is 7."
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 10
        assert "simulated-student" in [model.id async for model in client.models.list()]
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.chat.completions.create(**body(model="gpt-9"))
        with pytest.raises(openai.BadRequestError, match="not known here"):
            await client.chat.completions.create(
                model="simulated-teacher", messages=[{"role": "user", "content": "Question: Who?"}]
            )
        await client.close()


async def test_counts_what_is_paid_and_paid_twice(library):
    async with SimulatedEndpoint(library) as endpoint, aiohttp.ClientSession() as session:
        await asyncio.gather(*(post(session, endpoint.url, body(n % 20)) for n in range(30)))
        figures = await stats(session, endpoint, "?payments")
        assert (figures["hits"], figures["ok"], figures["distinct"], figures["paid_twice"]) == (30, 30, 20, 10)
        assert (figures["in_flight"], sorted(figures["payments"].values())) == (0, [1] * 10 + [2] * 10)
        async with session.post(endpoint.url.removesuffix("/v1") + "/reset") as response:
            assert response.status == 200
        assert (await stats(session, endpoint))["hits"] == 0


async def test_answers_do_not_depend_on_order_or_run(library):
    async def answers(order):
        async with SimulatedEndpoint(library, seed=1) as endpoint, aiohttp.ClientSession() as session:
            return {n: (await post(session, endpoint.url, body(n, "simulated-student", seed=n)))[1] for n in order}

    assert await answers(range(10)) == await answers(reversed(range(10)))


async def test_every_fault_shows_and_ends(library):
    faults = Faults(
        rate_limit=0.3, server_error=0.3, overload=0.3, cut_connection=0.3, malformed_body=0.3, retry_after_s=0
    )
    async with SimulatedEndpoint(library, faults=faults) as endpoint, aiohttp.ClientSession() as session:

        async def until_answered(n):
            for attempt in range(faults.failures_in_a_row + 1):
                try:
                    status, answer, _ = await post(session, endpoint.url, body(n))
                except (aiohttp.ClientError, json.JSONDecodeError):
                    continue
                if status == 200:
                    return attempt, answer["choices"][0]["message"]["content"]
            return None

        found = [await until_answered(n) for n in range(40)]
        assert all(found)
        assert [text for _, text in found] == [
            f"Step 1: Tom has {n} + 3 = {n + 3}.\nThe answer is {n + 3}." for n in range(40)
        ]
        assert {attempt for attempt, _ in found} == {0, 1, 2, 3}
        figures = await stats(session, endpoint)
        assert all(figures[name] > 0 for name in ("r429", "r5xx", "cut", "malformed"))
        assert (figures["ok"], figures["paid_twice"]) == (40, 0)


async def test_token_bucket_says_when_to_come_back(library):
    faults = Faults(requests_per_second=5, retry_after_s=2)
    async with SimulatedEndpoint(library, faults=faults) as endpoint, aiohttp.ClientSession() as session:
        answers = [await post(session, endpoint.url, body(n)) for n in range(12)]
        refused = [headers for status, _, headers in answers if status == 429]
        assert 5 <= len(refused) <= 7
        assert {headers["Retry-After"] for headers in refused} == {"2"}
        assert refused[0]["x-ratelimit-limit-requests"] == "300"


async def test_faults_change_while_it_runs(library):
    async with SimulatedEndpoint(library) as endpoint, aiohttp.ClientSession() as session:
        assert (await post(session, endpoint.url, body()))[0] == 200
        root = endpoint.url.removesuffix("/v1")
        async with session.post(f"{root}/faults", json={"always_failing": 1}) as response:
            assert (await response.json())["always_failing"] == 1
        assert (await post(session, endpoint.url, body()))[0] == 500
        async with session.post(f"{root}/faults", json={"nonsense": 1}) as response:
            assert response.status == 400
        assert endpoint.faults.always_failing == 1


async def test_answers_are_cut_off_by_cap_and_by_fault(library):
    async with SimulatedEndpoint(library) as endpoint, aiohttp.ClientSession() as session:
        _, capped, _ = await post(session, endpoint.url, body(max_tokens=5))
        assert capped["choices"][0]["finish_reason"] == "length"
        assert capped["usage"]["completion_tokens"] <= 5
        endpoint.faults = Faults(cut_off=1)
        _, cut, _ = await post(session, endpoint.url, body(1))
        assert cut["choices"][0]["finish_reason"] == "length"
        endpoint.faults = Faults(malformed_text=1)
        _, spoil_text, _ = await post(session, endpoint.url, body(2))
        assert "The answer is" not in spoil_text["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"model": "fixed", "messages": [], "n": 2}',
        b'{"model": "fixed", "messages": [{"role": "user", "content": "x"}], "seed": "abc"}',
    ],
)
async def test_bad_bodies_are_refused(library, content):
    async with (
        SimulatedEndpoint(library) as endpoint,
        aiohttp.ClientSession() as session,
        session.post(f"{endpoint.url}/chat/completions", data=content) as response,
    ):
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


def batch_file(bodies):
    lines = [
        json.dumps({"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": one})
        for n, one in enumerate(bodies)
    ]
    return ("requests.jsonl", "\n".join(lines).encode())


async def run_batch(client, bodies):
    file = await client.files.create(file=batch_file(bodies), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"run": "a"}
    )
    return await client.batches.retrieve(batch.id)


async def lines_of(client, file_id):
    content = await client.files.content(file_id)
    return {line["custom_id"]: line for line in map(json.loads, content.text.splitlines())}


async def test_batches(library):
    async with SimulatedEndpoint(library) as endpoint:
        client = openai.AsyncOpenAI(base_url=endpoint.url, api_key="none")
        batch = await run_batch(client, [*(body(n) for n in range(5)), body(model="gpt-9")])
        assert (batch.status, batch.metadata) == ("completed", {"run": "a"})
        assert (batch.request_counts.completed, batch.request_counts.failed) == (5, 1)
        answers = await lines_of(client, batch.output_file_id)
        assert answers["r4"]["response"]["body"]["choices"][0]["message"]["content"].endswith("The answer is 7.")
        errors = await lines_of(client, batch.error_file_id)
        assert errors["r5"]["response"]["status_code"] == 404
        assert [found.id async for found in client.batches.list(limit=1)] == [batch.id]
        assert endpoint.stats.report()["ok"] == 5
        with pytest.raises(openai.NotFoundError):
            await client.batches.retrieve("batch-9")
        await client.close()


async def test_batches_expire_fail_and_wait_on_demand(library):
    async with SimulatedEndpoint(library, faults=Faults(batch_expiry=1)) as endpoint:
        client = openai.AsyncOpenAI(base_url=endpoint.url, api_key="none")
        batch = await run_batch(client, [body(n) for n in range(6)])
        assert batch.status == "expired"
        assert sorted(await lines_of(client, batch.output_file_id)) == ["r0", "r1", "r2"]
        assert {line["error"]["code"] for line in (await lines_of(client, batch.error_file_id)).values()} == {
            "batch_expired"
        }
        endpoint.faults = Faults(batch_failure=1, failures_in_a_row=1)
        assert (await run_batch(client, [body(7)])).request_counts.failed == 1
        assert (await run_batch(client, [body(7)])).request_counts.completed == 1
        endpoint.faults = Faults(batch_delay_s=600)
        waiting = await run_batch(client, [body(8)])
        assert waiting.status == "in_progress"
        assert (await client.batches.cancel(waiting.id)).status == "cancelled"
        await client.close()


async def test_taken_port_is_an_error_with_a_remedy(library):
    async with SimulatedEndpoint(library) as endpoint:
        with pytest.raises(EndpointError, match="choose another port"):
            await SimulatedEndpoint(library, port=endpoint.port).start()


def test_runs_in_a_thread(library):
    with (
        SimulatedEndpoint(library).in_thread() as endpoint,
        urllib.request.urlopen(endpoint.url.removesuffix("/v1") + "/health") as response,
    ):
        assert json.load(response) == {"status": "ok"}


async def test_command_of_a_run_file(tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"text": QUESTIONS[0], "gold": "3", "rationale": "Step 1: 0 + 3 = 3."}) + "\n")
    command = (sys.executable, "-m", "lema_core.llm.simulated", "--port", "{port}", "--questions", str(questions))
    async with (
        running(EndpointSpec(model="simulated-teacher", command=command)) as url,
        aiohttp.ClientSession() as session,
    ):
        status, answer, _ = await post(session, url, body())
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "Step 1: 0 + 3 = 3.\nThe answer is 3.")


def test_command_refuses_what_it_cannot_use():
    command = [
        sys.executable,
        "-m",
        "lema_core.llm.simulated",
        "--questions",
        "nowhere.jsonl",
        "--port",
        str(free_port()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nowhere.jsonl does not exist" in done.stderr


def test_lema_simulate_helps():
    import typer

    from flows.cli.simulate import simulate

    app = typer.Typer()
    app.command()(simulate)
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert "reference-corrector" in shown.output

"""A shipped run file against each vendor's rules: the same corrections, at most one refusal."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from lema_core import (
    Correction,
    Engine,
    JudgedPath,
    ReasoningPath,
    correction_requests,
    judge_path,
    parse_path,
    path_requests,
    review_correction,
    select_mistakes,
)
from lema_core.llm.simulated import RULE_SETS, SimulatedEndpoint
from lema_core.questions import get_task
from lema_core.run.files import read_run_file
from lema_core.stages.stage import questions_of

SMOKE = Path(__file__).resolve().parents[4] / "deployments" / "runs" / "smoke.toml"


async def accepted(rules, ledger: Path, *teacher: str) -> tuple[set[str], int]:
    """Return the ids of what is accepted of the smoke run's corrections, and how many requests were refused.

    Args:
        rules: the teacher's.
        ledger: the ledger's path.
        teacher: settings of the run file's ``[endpoints.reference]``, up to three lines beside its ``base_url``.
    """
    questions = list(questions_of(read_run_file(SMOKE).questions))
    task = get_task(questions[0].task)
    async with SimulatedEndpoint(questions) as plain, SimulatedEndpoint(questions, rules=rules) as vendor:
        lines = [f"base_url='{vendor.url}'", "model='reference-corrector'", *teacher]
        run = read_run_file(SMOKE, [f"endpoints.reference={{{', '.join(lines)}}}"])
        assert run.corrections is not None
        async with asyncio.timeout(120), Engine.open(ledger=str(ledger)) as engine:
            student = run.endpoints["student"].at(plain.url)
            asked = list(path_requests(questions, run.students[0].sampling(), run.students[0].samples))
            outcomes = engine.stream(student, [path.request for path in asked])
            paths = [parse_path(path.question, path.sample_index, "s", await anext(outcomes)) for path in asked]
            judged = [judge_path(path) for path in paths if isinstance(path, ReasoningPath)]
            rows = [row for row in judged if isinstance(row, JudgedPath)]
            mistakes = [row for row in select_mistakes(rows, per_question=2) if isinstance(row, JudgedPath)]
            requests = list(correction_requests(mistakes, task, run.corrections.sampling(), 1))
            outcomes = engine.stream(run.endpoints["reference"], requests)
            found = set()
            for mistake in mistakes:
                row = review_correction(mistake, await anext(outcomes), family=task.family, shape=task.shape)
                found |= {row.path_id} if isinstance(row, Correction) else set()
        return found, vendor.stats.counts["bad_request"]


@pytest.mark.parametrize("rules", RULE_SETS)
async def test_each_vendor_accepts_what_the_plain_endpoint_accepts(rules, tmp_path) -> None:
    plain, _ = await accepted(None, tmp_path / "plain.sqlite")
    found, refused = await accepted(rules, tmp_path / "vendor.sqlite")
    assert len(plain) > 40
    assert len(found & plain) >= 0.95 * len(plain)
    assert refused <= 1
    # Known rules are not even refused once.
    found, refused = await accepted(rules, tmp_path / "named.sqlite", f"rules='{rules}'")
    assert len(found & plain) >= 0.95 * len(plain)
    assert refused == 0


@pytest.mark.parametrize(
    ("rules", "params"),
    [
        ("openai-reasoning", "reasoning_effort='high', verbosity='low', max_completion_tokens=4096"),
        ("claude", "reasoning_effort='high', temperature='omit', seed=3"),
        ("gemini", "reasoning_effort='low', max_tokens=2048"),
        ("qwen-thinking", "chat_template_kwargs={enable_thinking=false}"),
        ("llamacpp", "top_k=20, extra_body={min_p=0.1}"),
    ],
)
async def test_the_vendors_own_fields_are_taken(rules, params, tmp_path) -> None:
    found, refused = await accepted(rules, tmp_path / "l.sqlite", f"rules='{rules}'", f"params={{{params}}}")
    assert len(found) > 40
    assert refused == 0


async def chat(rules, **fields):
    async with SimulatedEndpoint(rules=rules) as endpoint, aiohttp.ClientSession() as session:
        body = {"model": "fixed", "messages": [{"role": "user", "content": "hello"}], **fields}
        async with session.post(f"{endpoint.url}/chat/completions", json=body) as reply:
            return reply.status, await reply.json()


async def test_thinking_is_on_by_default_counts_into_the_cap_and_is_switched_off() -> None:
    _, on = await chat("qwen-thinking", max_tokens=200)
    message = on["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"] != ""
    _, off = await chat("qwen-thinking", max_tokens=200, chat_template_kwargs={"enable_thinking": False})
    assert "reasoning" not in off["choices"][0]["message"]
    assert message["content"] == off["choices"][0]["message"]["content"]
    assert on["usage"]["completion_tokens"] > off["usage"]["completion_tokens"]
    _, cut = await chat("qwen-thinking", max_tokens=10)
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["choices"][0]["message"]["content"] is None
    assert cut["usage"]["completion_tokens"] <= 10
    _, inside = await chat("qwen-thinking", max_tokens=200, separate_reasoning=False)
    assert inside["choices"][0]["message"]["content"].startswith("<think>")


async def test_thinking_is_billed_as_the_vendors_state_it() -> None:
    _, openai = await chat("openai-reasoning", max_completion_tokens=400, reasoning_effort="low")
    usage = openai["usage"]
    thought = usage["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < thought < usage["completion_tokens"] == usage["total_tokens"] - usage["prompt_tokens"]
    _, gemini = await chat("gemini", max_tokens=400, reasoning_effort="low")
    usage = gemini["usage"]
    assert usage["completion_tokens"] < usage["total_tokens"] - usage["prompt_tokens"]


@pytest.mark.parametrize(
    ("rules", "fields", "words"),
    [
        ("openai-reasoning", {"max_tokens": 5}, "Use 'max_completion_tokens' instead"),
        ("openai-reasoning", {"temperature": 0.7}, "Only the default (1)"),
        ("openai-reasoning", {"stop": ["x"]}, "'stop' is not supported"),
        ("openai-reasoning", {"reasoning_effort": "huge"}, "Supported values are"),
        ("openai-reasoning", {"chat_template_kwargs": {}}, "Unrecognized request argument"),
        ("claude", {"temperature": 0.7}, "`temperature` is deprecated"),
        ("gemini", {"reasoning_effort": "medium"}, "Thinking level MEDIUM"),
        ("gemini", {"chat_template_kwargs": {}}, "Unknown name"),
        ("llamacpp", {"response_format": {"type": "yaml"}}, "response_format"),
    ],
)
async def test_a_refusal_has_the_vendors_words(rules, fields, words) -> None:
    status, body = await chat(rules, **fields)
    assert status == 400
    assert words in str(body)
    plain = {"temperature": 0.7, "max_tokens": 5, "stop": ["x"], "seed": 1}
    assert (await chat(None, **plain))[0] == 200

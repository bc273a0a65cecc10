"""Two turns at an endpoint whose answers the test decides: what a model makes of its own answers, counted."""

import json

import pytest
from support import of_stage

from lema_core.artifacts import Store
from lema_core.evaluation.self_correction import score_turns
from lema_core.llm.simulated import Library, Reply, SimulatedEndpoint
from lema_core.prompts import load
from lema_core.records import JudgedPath

pytestmark = pytest.mark.slow
CHECK = load("gsm8k").check.instruction
# By question: right at turn one, right at turn two. The last request is refused at turn one.
PLAN = [(True, True)] * 4 + [(False, True)] * 3 + [(True, False)] * 2 + [(False, False)] * 2 + [(None, True)]


REQUESTS = []


def respond(request):
    messages = request.body["messages"]
    REQUESTS.append(messages)
    second = messages[-1]["content"] == CHECK
    asked = messages[-3 if second else -1]["content"]
    number = next(n for n in reversed(range(len(PLAN))) if f"Ann has {n} pens" in asked)
    if second:
        assert messages[-2] == {"role": "assistant", "content": said(number, PLAN[number][0])}
    right = PLAN[number][second]
    if right is None:
        return Reply(400, {"error": {"message": "this one is refused", "type": "invalid_request_error"}})
    message = {"role": "assistant", "content": said(number, right)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    return Reply(200, {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})


def said(number, right):
    return f"Step 1: {number} + 2 = {number + 2}.\nThe answer is {number + 2 if right else -7}."


def test_the_turns_are_counted_and_asked_once(lema, tmp_path):
    file = tmp_path / "gsm8k.jsonl"
    rows = (
        {"question": f"Ann has {n} pens and buys 2. How many?", "answer": f"{n} + 2\n#### {n + 2}"}
        for n in range(len(PLAN))
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with SimulatedEndpoint(Library.read([]), respond=respond).in_thread() as endpoint:
        words = ("evaluate", file, "--base-url", endpoint.url, "--model", "m", "--two-turns", "--root", "out")
        printed = lema(*words).stdout
        assert "Self-correction" in printed
        assert "wrong to right" in printed
        asked = len(REQUESTS)
        lema(*words)
        assert len(REQUESTS) == asked
    store = Store(str(tmp_path / "out" / "store"))
    (first,), (second,) = of_stage(store, "evaluation"), of_stage(store, "self_correction")
    tables = [{"m": store.rows(ref, JudgedPath)} for ref in (first, second)]
    (turn,) = score_turns(*tables)
    assert (turn.first.successes, turn.second.successes, turn.first.n) == (6, 7, 12)
    assert (turn.difference.only_arm, turn.difference.only_reference) == (3, 2)
    assert (turn.stayed_right, turn.stayed_wrong) == (4, 3)
    assert turn.difference.p_value == 1.0
    rows = list(store.rows(second, JudgedPath))
    assert [row.verdict for row in rows].count("failed") == 1, "an answer that never came is shown to no model"
    assert store.manifest(second).counts["completions"] == len(PLAN) - 1

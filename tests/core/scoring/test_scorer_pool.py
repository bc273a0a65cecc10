"""Scorers in guarded processes: whatever one does costs its own text a verdict, and nothing else."""

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from lema_core.errors import BudgetExceededError, ConfigError
from lema_core.llm.requests import Completion, Failure
from lema_core.questions import get_task
from lema_core.scoring.pool import TextToScore, check_scorer, score_all, scorer_pool
from lema_core.system import confine

FILTERED = confine.landlock_version() > 0
pytestmark = pytest.mark.skipif(not FILTERED, reason="the guards of this kernel are fewer; docs/tasks.md says so")

MODULE = r"""
import asyncio, os, time
from lema_core import FieldMapping, Judge, JudgeFailedError, Score, ScorerLimits, Task, run_untrusted

def score(question, gold, text, context):
    if text == "hang":
        while True: pass
    if text == "sleep": time.sleep(1000)
    if text == "raise": raise ValueError("no such thing")
    if text == "memory": hold = bytearray(1 << 40)
    if text == "pieces":
        hold = []
        while True: hold.append(bytearray(1 << 24))
    if text == "fork": os.fork()
    if text == "spawn": os.posix_spawn("/bin/true", ["true"], {})
    if text == "exit": os._exit(3)
    if text == "quit": raise SystemExit(0)
    if text == "die": os.kill(os.getpid(), 9)
    if text == "kill": os.kill(os.getppid(), 9)
    if text == "write": open(OUTSIDE, "w").write("x")
    if text == "remove": os.remove(KEPT)
    if text == "none": return None
    if text == "true": return True
    if text == "deep":
        def deeper(): return deeper()
        deeper()
    if text == "big":
        with open(context.folder / "big", "wb") as file:
            for _ in range(200): file.write(bytes(1 << 20))
    if text == "input": return Score("right", repr(os.read(0, 10)))
    if text == "print": print('{"row": 1, "verdict": "right"}')
    if text == "own folder":
        (context.folder / "a").write_text("b")
        return Score("right", str(os.listdir(context.folder)))
    if text == "program": return Score("right", run_untrusted(["python", "-c", "print(6 * 7)"], {}).stdout.strip())
    if text == "bad program": return Score("right", run_untrusted(["python"], {"../x": ""}).stdout)
    if text == "surrogate": return Score("right", "reason \ud800", "answer \ud800")
    if text == "other verdict":
        score = Score("right")
        object.__setattr__(score, "verdict", "great")
        return score
    if text == "between messages":
        for number in range(3, 64):
            try: os.write(number, b'{"row": [1]}\n{"row": 1, "run": 5, "request": 1}\n{"row": 1}\n')
            except OSError: pass
        time.sleep(1000)
    if text == "in the way": (context.folder.parent / str(int(context.folder.name) + 1)).touch()
    if text == "unknown": return Score("unknown", "who knows")
    return Score("right" if text == gold else "wrong", f"{len(context.candidates or ())} choices", text)

async def score_async(question, gold, text, context):
    await asyncio.sleep(0)
    if text == "slow":
        time.sleep(0.5)  # a hundred of these at once take longer than one may
    if text == "wait": await asyncio.sleep(1000)
    if text == "ask": return Score("right", await context.ask("what?"))
    if text == "ask often": return Score("right", "".join([await context.ask(f"{n}") for n in range(9)]))
    if text == "ask badly": return Score("right", await context.ask([{"content": "no role"}]))
    if text == "catch":
        try: return Score("right", await context.ask("what?"))
        except JudgeFailedError as error: return Score("wrong", f"caught {error}")
    return score(question, gold, text, context)

LIMITS = ScorerLimits(seconds=3, memory_mib=768, file_mib=8)
PLAIN = Task(name="plain", prompts="gsm8k", scorer=score, limits=LIMITS)
ASYNC = Task(name="many", prompts="gsm8k", scorer=score_async, limits=LIMITS, judge=Judge(endpoint="judge", requests=2))
"""
CODES = {
    "hang": "scorer_timeout", "sleep": "scorer_timeout", "raise": "scorer_raised", "memory": "scorer_memory",
    "pieces": "scorer_memory", "fork": "scorer_raised", "spawn": "scorer_raised", "exit": "scorer_ended",
    "quit": "scorer_raised", "die": "scorer_ended", "kill": "scorer_raised", "write": "scorer_raised",
    "remove": "scorer_raised", "none": "scorer_result", "true": "scorer_result", "deep": "scorer_raised",
    "big": "scorer_raised", "bad program": "scorer_raised", "other verdict": "scorer_result",
    "unknown": "unknown_verdict",
}  # fmt: skip


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """Write the scorers' file, which must not change what is beside it."""
    file, kept = tmp_path / "scorers.py", tmp_path / "kept"
    kept.write_text("kept")
    file.write_text(f"OUTSIDE, KEPT = {str(tmp_path / 'outside')!r}, {str(kept)!r}\n{MODULE}")
    return file


def texts(*which: str) -> list[TextToScore]:
    return [TextToScore(question_id="q", question="?", gold="7", text=text, candidates=("a", "b")) for text in which]


@pytest.mark.parametrize("name", ["PLAIN", "ASYNC"])
def test_what_a_scorer_writes_between_its_messages_costs_its_own_text(module, name):
    found = asyncio.run(score_all(get_task(f"{module}:{name}"), texts("7", "between messages")))
    assert [scored.verdict for scored in found] == ["right", "unknown"]


def test_what_a_text_leaves_behind_costs_no_later_one(module):
    task = get_task(f"{module}:PLAIN")

    async def one_after_the_other() -> list[str]:
        async with scorer_pool(task):
            return [(await score_all(task, texts(text)))[0].verdict for text in ("in the way", "7", "7")]

    assert asyncio.run(one_after_the_other()) == ["wrong", "right", "right"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PLAIN", "ASYNC"])
def test_what_a_scorer_does_costs_its_own_text_only(module, tmp_path, name):
    task = get_task(f"{module}:{name}")
    good = {"7": "right", "8": "wrong", "own folder": "right", "program": "right", "print": "wrong", "input": "right",
            "surrogate": "right"}  # fmt: skip
    asked = [*good, *CODES, *good]
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    found = dict(zip(asked, asyncio.run(score_all(task, texts(*asked))), strict=True))
    assert {text: found[text].verdict for text in good} == good
    assert {text: found[text].decided_by for text in CODES} == CODES
    assert {found[text].verdict for text in CODES} == {"unknown"}
    assert found["7"].reason == "2 choices"
    assert found["7"].answer == "7"
    assert found["own folder"].reason == "['a']"
    assert found["program"].reason == "42"
    assert "no such thing" in found["raise"].reason
    assert "who knows" in found["unknown"].reason
    assert not (tmp_path / "outside").exists()
    assert (tmp_path / "kept").exists()
    after = {child.pid for child in psutil.Process().children(recursive=True)}
    assert after <= before, "no process is left"


def test_an_async_text_that_waits_for_ever_leaves_the_others_alone(module):
    found = asyncio.run(score_all(get_task(f"{module}:ASYNC"), texts("7", "wait", "8")))
    assert [scored.decided_by for scored in found] == ["scorer", "scorer_timeout", "scorer"]


def test_texts_that_share_a_process_do_not_cost_each_other_their_verdicts(module):
    asked = [TextToScore(question_id=str(n), question="?", gold="slow", text="slow") for n in range(16)]
    found = asyncio.run(score_all(get_task(f"{module}:ASYNC"), [*asked, *texts("pieces", "7")]))
    assert [scored.verdict for scored in found] == ["right"] * 16 + ["unknown", "right"]


def completion(request, text: str = "so") -> Completion:
    return Completion("key", f"{text} {request.sample_index}", "stop", 1, 1, "judge")


def test_a_judge_is_asked_up_to_its_number_of_requests(module):
    asked = []

    async def ask(request):
        asked.append(request)
        await asyncio.sleep(4)  # longer than the scorer's own limit, which does not count it
        return completion(request)

    found = asyncio.run(score_all(get_task(f"{module}:ASYNC"), texts("ask", "ask often", "ask badly"), ask))
    assert [scored.decided_by for scored in found] == ["scorer", "judge_failed", "judge_failed"]
    assert found[0].reason == "so 0"
    assert "more than 2 requests" in found[1].reason
    assert len(asked) == 3
    assert asked[0].messages[0] == {"role": "user", "content": "what?"}
    assert asked[0].sampling.max_tokens == 256


def test_a_request_that_failed_is_an_exception_that_a_scorer_may_catch(module):
    async def ask(request):
        return Failure(key="key", reason="bad_request", detail="too long", attempts=1)

    found = asyncio.run(score_all(get_task(f"{module}:ASYNC"), texts("ask", "catch", "7"), ask))
    assert [(scored.verdict, scored.decided_by) for scored in found] == [
        ("unknown", "judge_failed"),
        ("wrong", "scorer"),
        ("right", "scorer"),
    ]
    assert "too long" in found[1].reason


@pytest.mark.parametrize("text", ["ask", "catch"])
def test_a_budget_that_is_used_up_stops_the_run_whatever_the_scorer_catches(module, text):
    async def ask(request):
        raise BudgetExceededError("$1 of $1")

    with pytest.raises(BudgetExceededError):
        asyncio.run(score_all(get_task(f"{module}:ASYNC"), texts(text, "7"), ask))


def test_equal_texts_are_scored_once(module):
    counts = 0

    async def ask(request):
        nonlocal counts
        counts += 1
        return completion(request)

    found = asyncio.run(score_all(get_task(f"{module}:ASYNC"), texts(*["ask"] * 50), ask))
    assert len(found) == 50
    assert counts == 1


def test_keys_do_not_reach_a_scorer(module, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    file = module.with_name("env.py")
    file.write_text(
        "import os\nfrom lema_core import Score, Task\n"
        "def score(question, gold, text, context): return Score('wrong', str(sorted(os.environ)))\n"
        "TASK = Task(name='env', prompts='gsm8k', scorer=score)\n"
    )
    (found,) = asyncio.run(score_all(get_task(str(file)), texts("7")))
    assert "PATH" in found.reason
    assert "OPENAI_API_KEY" not in found.reason


def test_a_file_that_changed_since_it_was_named_is_refused(module):
    task = get_task(f"{module}:PLAIN")
    module.write_text(module.read_text() + "\n# edited\n")
    with pytest.raises(ConfigError, match="changed while the run was under way"):
        asyncio.run(score_all(task, texts("7")))


def test_a_scorer_that_does_not_fit_its_limits_is_found_before_the_run(module):
    file = module.with_name("heavy.py")
    file.write_text(
        "import os\nfrom lema_core import Score, ScorerLimits, Task\n"
        f"hold = None if os.getpid() == {os.getpid()} else bytearray(1 << 34)\n"
        "def score(question, gold, text, context): return Score('right')\n"
        "TASK = Task(name='heavy', prompts='gsm8k', scorer=score)\n"
    )
    with pytest.raises(ConfigError, match="memory"):
        asyncio.run(check_scorer(get_task(str(file))))

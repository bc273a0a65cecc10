"""Tasks of one's own from the run file, end to end: the shipped code and judged tasks, and what a bad scorer costs."""

import json
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import of_stage

from lema_core.artifacts import Store
from lema_core.llm.simulated import ChatRequest, Library, Reply, SimulatedEndpoint
from lema_core.records import Correction, Example, JudgedPath, ReasoningPath

TASKS = Path(__file__).resolve().parents[2] / "deployments" / "tasks"
RUN = """
name = "own_task"
[questions]
task = "my_tasks/{task}.py"
[test_questions]
task = "my_tasks/{task}.py"
split = "test"
[[students]]
endpoint = "student"
samples = 3
[corrections]
endpoint = "teacher"
[mixture]
arms = ["cot", "lema"]
[evaluation]
base = "student"
[runtime]
shard_requests = 12
[endpoints.student]
model = "student"
base_url = "{url}"
[endpoints.teacher]
model = "teacher"
base_url = "{url}"
[endpoints.judge]
model = "judge"
base_url = "{url}"
"""
SOLUTIONS = {
    "double": "def double(n):\n    return 2 * n",
    "largest": "def largest(numbers):\n    if not numbers:\n        return None\n\n    return max(numbers)",
    "reverse": "def reverse(text):\n    return text[::-1]",
    "is_even": "def is_even(n):\n    return n % 2 == 0",
    "count_words": "def count_words(text):\n    return len(text.split())",
    "factorial": "def factorial(n):\n    return 1 if n == 0 else n * factorial(n - 1)",
    "unique": "def unique(items):\n    return list(dict.fromkeys(items))",
    "clamp": "def clamp(n, low, high):\n    return max(low, min(n, high))",
    "triple": "def triple(n):\n    return 3 * n",
    "smallest": "def smallest(numbers):\n    return min(numbers)",
    "is_odd": "def is_odd(n):\n    return n % 2 == 1",
    "repeat": "def repeat(text, times):\n    return text * times",
}
HOSTILE = {
    "double": "while True: pass",
    "largest": "import os\nwhile True: os.fork()",
    "reverse": "import os; os._exit(0)",
    "is_even": "open('{outside}', 'w').write('evil')",
    "count_words": "import socket; socket.create_connection(('127.0.0.1', {port}))",
    "factorial": "x = bytearray(1 << 34)",
    "unique": "print('x' * (1 << 30))",
    "clamp": "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
}


def reply(text: str, model: str) -> Reply:
    """Return a chat completion."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return Reply(200, {"object": "chat.completion", "model": model, "choices": choices, "usage": usage})


class Answers:
    """What the three models answer, and how often each was asked."""

    def __init__(self, student: Callable[[str, int], str], teacher: Callable[[str], str]) -> None:
        self.asked = Counter[str]()
        self.student, self.teacher = student, teacher

    def __call__(self, request: ChatRequest) -> Reply:
        model, prompt = request.body["model"], request.body["messages"][-1]["content"]
        self.asked[model] += 1
        if model == "student":
            return reply(self.student(prompt, request.body["seed"]), model)
        return reply(self.teacher(prompt) if model == "teacher" else judged(prompt), model)


def judged(prompt: str) -> str:
    reference, answer = re.search(r"Reference: (.*?)\n\nAnswer:\n(.*?)\n\nSay", prompt, re.DOTALL).groups()
    return "It says what the reference says.\nVerdict: " + ("right" if reference in answer else "wrong")


@contextmanager
def run_of(tmp_path: Path, task: str, answers: Answers) -> Iterator[Path]:
    """Give a run file of a shipped task in a folder of its own, at an endpoint with these answers."""
    if not (tmp_path / "my_tasks").exists():
        shutil.copytree(TASKS, tmp_path / "my_tasks")
    with SimulatedEndpoint(Library(), respond=answers).in_thread() as endpoint:
        path = tmp_path / "run.toml"
        path.write_text(RUN.replace("{task}", task).replace("{url}", endpoint.url))
        yield path


def rows(store: Store, stage: str, record: type) -> list:
    return [row for ref in of_stage(store, stage) for row in store.rows(ref, record)]


def function_of(prompt: str) -> str:
    return re.findall(r"Write `(\w+)\(", prompt)[-1]


def coded(code: str) -> str:
    return f"Think about it.\n```python\n{code}\n```"


def corrected(prompt: str) -> str:
    name = function_of(prompt)
    code = "def double(n):\n    return 3 * n" if name == "double" else SOLUTIONS[name]
    return (
        f"Mistakes: The function does not return what the problem asks for.\nCorrected Answer:\n```python\n{code}\n```"
    )


@pytest.mark.slow
@pytest.mark.timeout(900)  # four runs of the command line, and programs that are killed at their limit
def test_the_code_task_goes_from_sampling_to_evaluation(lema, tmp_path):
    outside = tmp_path / "outside"

    def student(prompt: str, seed: int) -> str:
        name = function_of(prompt)
        if seed % 3 == 0 or name not in HOSTILE:
            return coded(SOLUTIONS[name])
        hostile = HOSTILE[name].replace("{outside}", str(outside)).replace("{port}", "9")
        return coded(f"{hostile}\n") if seed % 3 == 1 else coded(f"def {name}(*_):\n    return 'nothing'")

    answers = Answers(student, corrected)
    with run_of(tmp_path, "code_task", answers) as run_file:
        planned = lema("plan", run_file, "--root", "out").stdout
        assert str(tmp_path / "my_tasks" / "code_task.py") in planned
        assert "isolated" in planned
        printed = lema("run", run_file, "--root", "out").stdout
        assert "NOT isolated" in printed or "bubblewrap" in printed
        asked = answers.asked.copy()
        store = Store(str(tmp_path / "out" / "store"))
        paths = rows(store, "verdicts", JudgedPath)
        assert Counter(path.verdict for path in paths) == {"right": 8, "wrong": 16}
        assert {path.reason for path in paths if path.verdict == "right"} == {"all tests passed"}
        reasons = {
            function_of(path.question): path.reason
            for path in paths
            if path.verdict == "wrong" and "nothing" not in path.text
        }
        assert reasons.keys() == HOSTILE.keys()
        assert reasons["double"] == "timeout"
        assert "MemoryError" in reasons["factorial"]
        for name in ("largest", "count_words", "clamp"):
            assert "not permitted" in reasons[name], name
        assert not outside.exists()
        # Corrections are judged by the same tests: the one of `double` fails them.
        corrections = rows(store, "corrections", Correction)
        assert {function_of(row.question) for row in corrections} == HOSTILE.keys() - {"double"}
        (largest, *_) = [row for row in corrections if function_of(row.question) == "largest"]
        assert SOLUTIONS["largest"] in largest.spliced, "a program keeps its empty lines and its indentation"
        (manifest,) = (store.manifest(ref) for ref in of_stage(store, "corrections"))
        assert manifest.reasons["wrong_answer"] == 2
        assert [path.verdict for path in rows(store, "evaluation", JudgedPath)] == ["right"] * 4
        assert {row.kind for row in rows(store, "mixture", Example)} == {"cot", "correction"}
        # A second run asks nothing; an edited scorer judges again and asks nothing either.
        file = tmp_path / "my_tasks" / "code_task.py"
        file.write_text(file.read_text().replace("all tests passed", "every test passed"))
        planned = lema("plan", run_file, "--root", "out").stdout
        found = dict(re.findall(r"^ *(\w+):?.* (hit|miss) ", planned, re.MULTILINE))
        assert (found["questions"], found["reasoning_paths"]) == ("hit", "hit")
        assert (found["verdicts"], found["corrections"], found["evaluation"]) == ("miss", "miss", "miss")
        lema("run", run_file, "--root", "out")
        assert {path.reason for path in rows(store, "verdicts", JudgedPath) if path.verdict == "right"} == {
            "all tests passed",
            "every test passed",
        }
        assert answers.asked == asked, "nothing was asked again"


REFERENCES = {row["question"]: row["reference"] for name in ("train", "test") for row in map(
    json.loads, (TASKS / f"judged_{name}.jsonl").read_text().splitlines())}  # fmt: skip


def question_of(prompt: str) -> str:
    return re.findall(r"Question: (.*)", prompt)[-1]


def explained(prompt: str, seed: int) -> str:
    end = REFERENCES[question_of(prompt)] if seed % 3 else "It is magic."
    return f"Step 1: Look at what happens there.\nStep 2: {end}\nThe answer is what step 2 says."


def explained_again(prompt: str) -> str:
    step = REFERENCES[question_of(prompt)]
    solution = f"...\nStep 2: {step}\nThe answer is what step 2 says."
    return f"Step 2.\nExplanation: Magic explains nothing at all here.\nCorrect Solution:\n{{\n{solution}\n}}"


@pytest.mark.slow
def test_the_judged_task_pays_its_judge_once_and_within_the_budget(lema, tmp_path):
    answers = Answers(explained, explained_again)
    with run_of(tmp_path, "judged_task", answers) as run_file:
        planned = lema("plan", run_file, "--root", "out").stdout
        assert "Its judge is the endpoint judge" in planned
        # At most one request per path, correction and answer: 6 x 3, 6 x 3 and 3.
        asks = dict(re.findall(r"^ *(\w+), judge\S* .* judge +(\d+) ", planned, re.MULTILINE))
        assert asks == {"verdicts": "18", "corrections": "18", "evaluation": "3"}, planned
        lema("run", run_file, "--root", "out")
        store = Store(str(tmp_path / "out" / "store"))
        paths = rows(store, "verdicts", JudgedPath)
        wrong = [path for path in paths if path.verdict == "wrong"]
        assert len(paths) == 18
        assert 0 < len(wrong) < 18
        assert {path.reason for path in paths} == {"It says what the reference says."}
        corrections = rows(store, "corrections", Correction)
        assert {row.question for row in corrections} == {path.question for path in wrong}
        (verdicts,) = (store.manifest(ref) for ref in of_stage(store, "verdicts"))
        assert verdicts.counts["judge_completions"] == len({(path.question_id, path.text) for path in paths})
        asked = answers.asked.copy()
        ledger = sqlite3.connect(tmp_path / "out" / "ledger.sqlite")
        paid = ledger.execute("select count(*) from completions").fetchone()[0]
        assert paid == asked.total(), "the judge's answers are in the ledger with all others"
        ledger.close()
        # Another rubric: everything is judged again by new requests, nothing is sampled again.
        toml = tmp_path / "my_tasks" / "judged_task.toml"
        toml.write_text(toml.read_text().replace("Compare an answer", "Compare, strictly, an answer"))
        lema("run", run_file, "--root", "out")
        assert answers.asked["student"] == asked["student"]
        assert answers.asked["judge"] == 2 * asked["judge"]
        # A budget that ends within the judging stops the run; the rest goes on where it stopped.
        toml.write_text(toml.read_text().replace("strictly", "very strictly"))
        before = answers.asked["judge"]
        spent = 20 * answers.asked.total()
        stopped = lema("run", run_file, "--root", "out", "--set", f"budget.tokens={spent + 100}", check=False)
        assert stopped.returncode == 1
        assert "budget" in stopped.stdout + stopped.stderr
        assert answers.asked["judge"] - before <= 5
        lema("run", run_file, "--root", "out")
        assert answers.asked["judge"] == before + asked["judge"], (
            "what was paid before the budget ended is not paid twice"
        )


SCORER = """
import os, time
from lema_core import FieldMapping, Score, ScorerLimits, Task

def score(question, gold, text, context):
    kind = question.split()[0]
    if kind == "hang":
        while True: pass
    if kind == "raise": raise ValueError("not today")
    if kind == "memory": hold = bytearray(1 << 40)
    if kind == "fork": os.fork()
    if kind == "write": open("{outside}", "w").write("x")
    if kind == "exit": os._exit(0)
    return Score("right" if gold in text else "wrong")

TASK = Task(
    name="bad", prompts="gsm8k", scorer=score, train="rows.jsonl", test="rows.jsonl", mapping=FieldMapping(),
    limits=ScorerLimits(seconds=2, memory_mib=2048),
)
"""
KINDS = {
    "hang": "scorer_timeout", "raise": "scorer_raised", "memory": "scorer_memory", "fork": "scorer_raised",
    "write": "scorer_raised", "exit": "scorer_ended", "fine": "",
}  # fmt: skip


@pytest.mark.slow
def test_a_scorer_that_goes_wrong_costs_its_rows_and_never_the_run(lema, tmp_path):
    tasks = tmp_path / "my_tasks"
    tasks.mkdir()
    outside = tmp_path / "outside"
    (tasks / "bad.py").write_text(SCORER.replace("{outside}", str(outside)))
    lines = [json.dumps({"question": f"{kind} {i}", "answer": "7"}) for kind in KINDS for i in range(2)]
    (tasks / "rows.jsonl").write_text("\n".join(lines))
    answers = Answers(lambda _, seed: f"The answer is {7 + seed % 2}.", lambda _: "no correction")
    with run_of(tmp_path, "bad", answers) as run_file:
        unused = '[corrections]\nendpoint = "teacher"\n[mixture]\narms = ["cot", "lema"]\n'
        run_file.write_text(run_file.read_text().replace(unused, ""))
        lema("run", run_file, "--root", "out", "--set", "runtime.max_failed=0")
    store = Store(str(tmp_path / "out" / "store"))
    judged_paths = rows(store, "verdicts", JudgedPath)
    assert {path.question.split()[0] for path in judged_paths} == {"fine"}
    assert len(judged_paths) == 6
    rejected = [row for ref in of_stage(store, "verdicts") for row in store.rejections(ref)]
    by_path = {row.id: row.question.split()[0] for row in rows(store, "reasoning_paths", ReasoningPath)}
    assert {(by_path[row.parent_id], row.reason) for row in rejected} == set(KINDS.items()) - {("fine", "")}
    assert all("not today" in row.detail for row in rejected if by_path[row.parent_id] == "raise")
    assert not outside.exists()
    answered = rows(store, "evaluation", JudgedPath)
    assert Counter(row.verdict == "unknown" for row in answered) == {True: 12, False: 2}
    assert {row.decided_by for row in answered if row.verdict == "unknown"} == set(KINDS.values()) - {""}

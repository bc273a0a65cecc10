"""Each of the paper's tasks, and the added one, through all data stages while the endpoint misbehaves."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import environment

from lema_core.answers import judge
from lema_core.artifacts import ArtifactRef, Store
from lema_core.llm.simulated import Faults, Library, SimulatedEndpoint
from lema_core.questions import QuestionsSpec, get_task, read_questions
from lema_core.records import Correction, Example, Question
from lema_core.reference_corrector import Problem

pytestmark = pytest.mark.slow

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
PUBLISHED = {
    "gsm8k": "gsm8k/train.jsonl",
    "math": "math/test.jsonl",
    "csqa": "csqa/train_rand_split.jsonl",
    "svamp": "svamp/SVAMP.json",
    "asdiv": "asdiv/ASDiv.xml",
}
OWN = {
    "gsm8k": [
        {"question": f"Ann fills {n} jars with 12 plums each and eats 5 plums. How many plums are in jars?",
         "answer": f"{n} jars hold {n}*12=<<{n}*12={n * 12}>>{n * 12} plums.\n"
                   f"After eating there are {n * 12}-5=<<{n * 12}-5={n * 12 - 5}>>{n * 12 - 5}.\n#### {n * 12 - 5}"}
        for n in range(3, 9)
    ],
    "math": [
        {"problem": f"Compute $\\frac{{{n}}}{{7}} + \\frac{{1}}{{7}}$.", "level": "Level 1", "type": "Prealgebra",
         "solution": f"We add the numerators: ${n} + 1 = {n + 1}$.\nThe sum is $\\boxed{{\\frac{{{n + 1}}}{{7}}}}$."}
        for n in range(1, 5)
    ],
    "csqa": [
        {"answerKey": "B", "question": {"stem": f"Where would a {animal} most likely sleep?", "choices": [
            {"label": label, "text": text} for label, text in (("A", "oven"), ("B", place), ("C", "coin"))]}}
        for animal, place in (("horse", "stable"), ("bird", "nest"), ("bee", "hive"), ("dog", "kennel"))
    ],
    "svamp": [
        {"Body": f"Tom had {n} marbles and lost 3", "Question": "How many has he now?", "Answer": float(n - 3)}
        for n in range(7, 12)
    ],
    "asdiv": [
        {"ID": str(n), "Body": f"A shop has {n} red and 4 blue hats.", "Question": "How many hats?",
         "Answer": f"{n + 4} (hats)"}
        for n in range(2, 7)
    ],
}  # fmt: skip
RUN = """
name = "flow_of_{task}"
[questions]
task = "{task}"
{source}
limit = {limit}
[[students]]
endpoint = "student"
samples = 3
[[students]]
endpoint = "other"
samples = 1
[corrections]
endpoint = "reference"
[mixture]
arms = ["cot", "lema"]
[runtime]
shard_requests = 40
[endpoints.student]
model = "simulated-student/a"
base_url = "{url}"
[endpoints.other]
model = "simulated-student/b"
base_url = "{url}"
[endpoints.reference]
model = "reference-corrector"
base_url = "{url}"
"""
MISBEHAVING = Faults(
    rate_limit=0.1, retry_after_s=0.02, server_error=0.1, cut_connection=0.1, malformed_body=0.05, malformed_text=0.05
)


TASKS = (*PUBLISHED, *(("gsm_symbolic",) if find_spec("reasoning_gym") else ()))
LIMIT = 12
ALL_IN_ONE_PROCESS = """
import sys
from pathlib import Path
from flows.cli.run import execute
from lema_core.run.files import read_run_file
for name in sys.argv[1:]:
    execute(read_run_file(Path(name)), Path(name).stem)
"""


def source_of(task: str, folder: Path) -> str | None:
    """Return the published file where it is there, else our own rows of the same form; None for a generator."""
    if task not in PUBLISHED:
        return None
    published, own = SHARED / PUBLISHED[task], folder / f"{task}.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in OWN[task]))
    return str((published if published.exists() else own).resolve())


def questions_of(task: str, path: str | None) -> list[Question]:
    return [r for r in read_questions(QuestionsSpec(task=task, path=path, limit=LIMIT)) if isinstance(r, Question)]


@pytest.fixture(scope="module")
def ran(prefect_api, tmp_path_factory) -> dict[str, tuple[list[Question], Store]]:
    """Run all tasks against one misbehaving endpoint, and give the questions and the store of each."""
    folder = tmp_path_factory.mktemp("tasks")
    library, questions = Library(), {}
    sources = {task: source_of(task, folder) for task in TASKS}
    for task, path in sources.items():
        questions[task] = questions_of(task, path)
        for row in questions[task]:
            # SVAMP and ASDiv have no rationales: the teacher knows one all the same, as a real one would.
            known = row.rationale or f"Step 1: Working it out gives {row.gold}.\nThe answer is {row.gold}."
            library.add(Problem(row.text, row.gold, known if row.candidates is None else None, row.candidates))
    with SimulatedEndpoint(library, faults=MISBEHAVING).in_thread() as endpoint:
        for task, path in sources.items():
            text = RUN.replace("{task}", task).replace("{source}", f'path = "{path}"' if path else "")
            text = text.replace("{limit}", str(LIMIT)).replace("{url}", endpoint.url)
            (folder / f"{task}.toml").write_text(text)
        done = subprocess.run(
            [sys.executable, "-c", ALL_IN_ONE_PROCESS, *(f"{task}.toml" for task in TASKS)],
            cwd=folder, env=environment(prefect_api, folder), capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        failed = endpoint.stats.counts
    assert done.returncode == 0, done.stdout + done.stderr
    assert failed["r429"] + failed["r5xx"] > 10
    return {task: (questions[task], Store(str(folder / task / "store"))) for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_runs_through_all_data_stages_under_faults(ran, task):
    questions, store = ran[task]
    refs = {m.stage: ArtifactRef(m.stage, m.fingerprint) for m in store.manifests()}
    assert store.manifest(refs["questions"]).rows_out == len(questions)
    sampled = sorted(m.rows_out for m in store.manifests() if m.stage == "reasoning_paths")
    assert sampled == [len(questions), 3 * len(questions)], "faults cost no path"
    family = get_task(task).family
    rows = list(store.rows(refs["corrections"], Correction))
    assert all(judge(row.spliced, row.gold, family, row.candidates).verdict == "right" for row in rows)
    rejected = store.manifest(refs["corrections"]).reasons
    assert len(rows) + sum(rejected.values()) == store.manifest(refs["mistakes"]).rows_out
    assert rows
    kinds = {
        example.kind
        for manifest in store.manifests()
        if manifest.stage == "mixture"
        for example in store.rows(ArtifactRef(manifest.stage, manifest.fingerprint), Example)
    }
    assert kinds == {"cot", "correction"}

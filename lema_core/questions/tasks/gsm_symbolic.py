"""The example of an added task: GSM-Symbolic templates by reasoning-gym, which generates them without a file.

reasoning-gym is optional (``pip install reasoning-gym``); only generating needs it. Its other families are added alike.
"""

import hashlib
from collections.abc import Iterator
from importlib import metadata
from itertools import count

from lema_core.errors import MissingDependencyError
from lema_core.questions.drafts import Draft, rationale_from
from lema_core.questions.specs import QuestionsSpec
from lema_core.questions.tasks.task import Task

TEST_SHARE = 4
"""One in this many problems belongs to the test part."""
BLOCK = 500
"""The library makes a set of a fixed size; we take one block after another."""
REQUEST = " Give the result as your final answer. Do not include units."


def _generate(spec: QuestionsSpec) -> Iterator[tuple[str, Draft]]:
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingDependencyError(
            "The task gsm_symbolic needs reasoning-gym, which is not installed: pip install reasoning-gym"
        ) from error
    number = 0
    for block in count():
        for row in reasoning_gym.create_dataset("gsm_symbolic", size=BLOCK, seed=spec.seed * 1_000_003 + block):
            draft = _draft(row)
            # The text decides the part: other seeds repeat texts, so seeds alone would not keep the parts apart
            is_test = hashlib.sha256(draft.text.encode()).digest()[0] % TEST_SHARE == 0
            if spec.split == ("test" if is_test else "train"):
                yield f"gsm_symbolic:{number}", draft
                number += 1


def _draft(row: dict[str, object]) -> Draft:
    gold = str(row["answer"])
    info = row["metadata"]
    solution = str(info.get("answer_cot", "")) if isinstance(info, dict) else ""
    rationale = rationale_from(solution.rpartition("####")[0], gold)
    return Draft(text=str(row["question"]).removesuffix(REQUEST), gold=gold, rationale=rationale)


def _version() -> str:
    try:
        return f"reasoning-gym-{metadata.version('reasoning-gym')}"
    except metadata.PackageNotFoundError:
        return "reasoning-gym-absent"


TASK = Task(
    name="gsm_symbolic",
    family="numeric",
    prompts="gsm8k",
    generate=_generate,
    generator_version=_version(),
    on_duplicate="reject",
)

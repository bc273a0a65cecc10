"""The tasks whose problems are generated: our arithmetic word problems, and GSM-Symbolic by reasoning-gym.

Arithmetic is the embedded task, for the demo and the tests; it needs no network and no file. The same options and seed
give the same problems in the same order on every machine. No two problems share their numbers and operations, and the
train and test parts are disjoint in them: a test problem is not a train problem with another name.

GSM-Symbolic is the example of an added generator. reasoning-gym is optional (``pip install reasoning-gym``); only
generating needs it. Its other families are added alike.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import count

from lema_core.errors import DataError, MissingDependencyError
from lema_core.questions.specs import ArithmeticOptions, Operation, QuestionsSpec
from lema_core.questions.tasks.task import Draft, Task, rationale_from

VERSION = 1
"""Raised when the same options and seed would give other problems."""
TEST_SHARE = 4
"""One in this many problems belongs to the test part, in both tasks."""
PATIENCE = 20_000
"""After this many candidates in a row that are known or of the other part, the options allow no new problem."""
NAMES = (
    ("Tom", "He", "him"), ("Ben", "He", "him"), ("Sam", "He", "him"), ("Leo", "He", "him"),
    ("Max", "He", "him"), ("Anna", "She", "her"), ("Mia", "She", "her"), ("Lucy", "She", "her"),
    ("Ella", "She", "her"), ("Kate", "She", "her"),
)  # fmt: skip
FRIENDS = ("Jack", "Nina", "Paul", "Rosa", "Dan", "Julia", "Omar", "Grace")
THINGS = (
    "apples", "pens", "coins", "cards", "stamps", "books", "shells", "marbles", "eggs", "balls", "stickers", "cookies",
)  # fmt: skip
BOXES = ("boxes", "bags", "jars", "baskets")
MORE = (
    "{he} buys {n} more.", "{he} finds {n} more.", "{friend} gives {him} {n} more.", "Then {he_} gets {n} more.",
)  # fmt: skip
LESS = (
    "{he} gives {n} to {friend}.", "{he} loses {n} of them.", "{he} sells {n} of them.", "Then {he_} gives away {n}.",
)  # fmt: skip
MULTIPLES = {2: "Then {he_} doubles the number of {things}.", 3: "Then {he_} triples the number of {things}."}
SIGNS: dict[Operation, str] = {"add": "+", "subtract": "-", "times": "*"}


@dataclass(frozen=True, slots=True)
class Computation:
    """One operation: ``before operation number = after``."""

    before: int
    operation: Operation
    number: int
    after: int


def generate(options: ArithmeticOptions, seed: int, split: str) -> Iterator[tuple[str, Draft]]:
    """Yield (place, problem) without end; a place reads ``arithmetic:<number>``.

    Raises:
        DataError: the options allow no further problem.
    """
    rng = random.Random(f"lema-arithmetic-{VERSION}-{seed}-{split}")  # noqa: S311  # a seeded stream, not a secret
    seen: set[bytes] = set()
    for number in count():
        steps = _new_problem(rng, options, split, seen)
        yield f"arithmetic:{number}", _in_words(rng, steps)


def _new_problem(
    rng: random.Random, options: ArithmeticOptions, split: str, seen: set[bytes]
) -> tuple[Computation, ...]:
    for _ in range(PATIENCE):
        steps = _draw(rng, options)
        if steps is None:
            continue
        text = ";".join(f"{step.before}{SIGNS[step.operation]}{step.number}" for step in steps)
        key = hashlib.sha256(text.encode()).digest()[:8]
        part = "test" if key[0] % TEST_SHARE == 0 else "train"
        if key not in seen and part == split:
            seen.add(key)
            return steps
    raise DataError(
        f"The arithmetic generator made {len(seen)} {split} problems and finds no new one in {PATIENCE} tries. "
        "Expected: options that allow more problems. Lower `limit`, or raise largest_number or max_steps."
    )


def _draw(rng: random.Random, options: ArithmeticOptions) -> tuple[Computation, ...] | None:
    """Return the steps of a problem, or None where the drawn numbers leave the allowed values."""
    value = rng.randint(2, options.largest_number)
    steps: list[Computation] = []
    for position in range(rng.randint(options.min_steps, options.max_steps)):
        first = position == 0
        operation = rng.choice(options.operations)
        if operation == "add":
            number = rng.randint(1, options.largest_number)
            step = Computation(value, operation, number, value + number)
        elif operation == "subtract":
            number = rng.randint(1, min(options.largest_number, max(value - 1, 1)))
            step = Computation(value, operation, number, value - number)
        else:
            number = rng.randint(2, 5) if first else rng.choice((2, 3))
            step = Computation(value, operation, number, value * number)
        if not 1 <= step.after <= options.largest_value:
            return None
        steps.append(step)
        value = step.after
    return tuple(steps)


def _in_words(rng: random.Random, steps: tuple[Computation, ...]) -> Draft:
    name, he, him = rng.choice(NAMES)
    words = {"name": name, "he": he, "he_": he.lower(), "him": him, "things": rng.choice(THINGS)}
    first, later = steps[0], steps
    if first.operation == "times":
        # Boxes of equal size name both numbers of the first step
        sentences = [f"{name} has {first.before} {rng.choice(BOXES)} with {first.number} {words['things']} each."]
        later = steps[1:]
    else:
        sentences = [f"{name} has {first.before} {words['things']}."]
    for step in later:
        if step.operation == "times":
            sentences.append(MULTIPLES[step.number].format(**words))
        else:
            phrase = rng.choice(MORE if step.operation == "add" else LESS)
            sentences.append(phrase.format(**words, n=step.number, friend=rng.choice(FRIENDS)))
    sentences.append("How many {things} does {name} have now?".format(**words))
    lines = [
        f"Step {k}: {name} has {step.before} {SIGNS[step.operation]} {step.number} = {step.after} {words['things']}."
        for k, step in enumerate(steps, start=1)
    ]
    gold = str(steps[-1].after)
    rationale = "\n".join([*lines, f"The answer is {gold}."])
    return Draft(text=" ".join(sentences), gold=gold, rationale=rationale, level=str(len(steps)))


ARITHMETIC = Task(
    name="arithmetic",
    family="numeric",
    prompts="arithmetic",
    generate=lambda spec: generate(spec.arithmetic, spec.seed, spec.split),
    generator_version=f"arithmetic-{VERSION}",
)


BLOCK = 500
"""The library makes a set of a fixed size; we take one block after another."""
REQUEST = " Give the result as your final answer. Do not include units."


def _generate_symbolic(spec: QuestionsSpec) -> Iterator[tuple[str, Draft]]:
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingDependencyError(
            "The task gsm_symbolic needs reasoning-gym, which is not installed: pip install reasoning-gym"
        ) from error
    number = 0
    for block in count():
        for row in reasoning_gym.create_dataset("gsm_symbolic", size=BLOCK, seed=spec.seed * 1_000_003 + block):
            gold = str(row["answer"])
            info = row["metadata"]
            solution = str(info.get("answer_cot", "")) if isinstance(info, dict) else ""
            rationale = rationale_from(solution.rpartition("####")[0], gold)
            draft = Draft(text=str(row["question"]).removesuffix(REQUEST), gold=gold, rationale=rationale)
            # The text decides the part: other seeds repeat texts, so seeds alone would not keep the parts apart
            is_test = hashlib.sha256(draft.text.encode()).digest()[0] % TEST_SHARE == 0
            if spec.split == ("test" if is_test else "train"):
                yield f"gsm_symbolic:{number}", draft
                number += 1


def _reasoning_gym_version() -> str:
    try:
        return f"reasoning-gym-{metadata.version('reasoning-gym')}"
    except metadata.PackageNotFoundError:
        return "reasoning-gym-absent"


GSM_SYMBOLIC = Task(
    name="gsm_symbolic",
    family="numeric",
    prompts="gsm8k",
    generate=_generate_symbolic,
    generator_version=_reasoning_gym_version(),
    on_duplicate="reject",
)

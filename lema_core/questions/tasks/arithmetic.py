"""The embedded task: generated word problems of a few small steps (``lema_core/questions/arithmetic.py``)."""

from collections.abc import Iterator

from lema_core.questions import arithmetic
from lema_core.questions.drafts import Draft
from lema_core.questions.specs import QuestionsSpec
from lema_core.questions.tasks.task import Task


def _generate(spec: QuestionsSpec) -> Iterator[tuple[str, Draft]]:
    return arithmetic.generate(spec.arithmetic, spec.seed, spec.split)


TASK = Task(
    name="arithmetic",
    family="numeric",
    prompts="arithmetic",
    generate=_generate,
    generator_version=f"arithmetic-{arithmetic.VERSION}",
)

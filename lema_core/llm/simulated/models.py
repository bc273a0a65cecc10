"""The simulated models: which text answers a chat request. A pure function of the request and the seed.

- ``replay/<name>``: the solutions recorded of a model, sample by sample (``seed`` modulo their number).
- ``simulated-student`` or ``simulated-student/<any>``: paths with seeded mistakes; asked for a correction or a new
  question it does as the others do.
- ``reference-corrector``, ``simulated-teacher``: corrections by the reference corrector, paths without mistakes.
- ``fixed``: one short solution to whatever is asked, for load tests.

A prompt with ``#Given Question#:`` is answered with a variant of that question, but by ``replay`` and ``fixed``.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lema_core.corrections import Shape
from lema_core.llm.simulated.library import Library
from lema_core.llm.simulated.requests import Asked, last_user_text, read_request
from lema_core.llm.simulated.solutions import LEAD_IN, solve, vary
from lema_core.reference_corrector import correct

STUDENT = "simulated-student"
TEACHERS = ("reference-corrector", "simulated-teacher")
FIXED = "fixed"
FIXED_TEXT = "Step 1: 40 + 2 = 42.\nThe answer is 42."
REPLAY = "replay/"
_TOKEN = re.compile(r"\w+|[^\w\s]")


class UnknownModelError(Exception):
    """No simulated model has this name."""


class UnknownQuestionError(Exception):
    """The question is not among those the endpoint knows."""


@lru_cache(maxsize=2048)
def count_tokens(text: str) -> int:
    """Return a token count that is the same everywhere: words and single signs. Real tokenizers count more."""
    return len(_TOKEN.findall(text))


@dataclass(frozen=True, slots=True)
class Models:
    """All simulated models over one library."""

    library: Library
    seed: int = 0
    error_rate: float = 0.5
    """Share of the simulated student's paths that are wrong."""

    def names(self) -> list[str]:
        """Return the names of the models."""
        return [*TEACHERS, STUDENT, FIXED, *(REPLAY + name for name in sorted(self.library.recorded))]

    def answer(self, body: Mapping[str, Any]) -> str:
        """Return the text that answers a chat completion request.

        Raises:
            UnknownModelError: there is no such model.
            UnknownQuestionError: the question is not among those the endpoint knows.
        """
        model = str(body.get("model", ""))
        if model == FIXED:
            return FIXED_TEXT
        asked = read_request(last_user_text(body["messages"]))
        # Greedy answers do not depend on the seed, as with a real server.
        sample = 0 if body.get("temperature") == 0 else int(body.get("seed") or 0)
        if model.startswith(REPLAY):
            name = model.removeprefix(REPLAY)
            if name not in self.library.recorded:
                raise UnknownModelError(f"nothing is recorded of {name!r}; there are {', '.join(self.names())}")
            solutions = self.library.samples(name, asked.question)
            if not solutions:
                raise UnknownQuestionError(f"{name!r} has no recorded solution to {asked.question[:80]!r}")
            return solutions[sample % len(solutions)]
        if model not in TEACHERS and model.partition("/")[0] != STUDENT:
            raise UnknownModelError(f"the model {model!r} does not exist; there are {', '.join(self.names())}")
        return self._simulate(model, asked, sample)

    def _simulate(self, model: str, asked: Asked, sample: int) -> str:
        problem = self.library.find(asked.question)
        if problem is None:
            raise UnknownQuestionError(f"the question is not known here: {asked.question[:80]!r}")
        if asked.kind == "correction":
            shape: Shape = "choice" if problem.candidates and not asked.steps else "steps"
            return correct(problem, asked.original, shape)
        rng = random.Random(f"{self.seed}|{model}|{sample}|{asked.kind}|{problem.question}")  # noqa: S311  # reproducible
        if asked.kind == "evolution":
            created = vary(problem, rng)
            # A variant of a variant must not pile up lead-ins: its origin would not be found again.
            while created.startswith(LEAD_IN + LEAD_IN):
                created = created.removeprefix(LEAD_IN)
            return f"#Created Question#: {created}"
        return solve(problem, rng, 0.0 if model in TEACHERS else self.error_rate)

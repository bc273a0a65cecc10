"""Prompt sets (TOML files beside this module, read once, checked, hashed by part) and how their texts are put together.

A task of one's own brings its set as a TOML file beside it, which is known by its place and its hash: ``FILE#HASH``.

A set has the parts ``path``, ``correction`` and ``evolution``, each an instruction and worked examples, and the
instructions of the other training formats, ``critique`` and ``refinement``. A part's text enters the identity of the
artifacts made with it: a changed evolution prompt leaves the corrections alone.

One layout serves prompting and training: what a corrector reads is a correction example's input, so that a student is
trained on exactly the text that evaluation asks with.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from lema_core.errors import ConfigError
from lema_core.steps import numbered_path

Messages = tuple[Mapping[str, str], ...]
Shape = Literal["steps", "choice", "whole"]

THINK = "Answer: Let's think step by step."
GIVEN, CREATED = "#Given Question#:", "#Created Question#:"
CUE = "Incorrect Step:"
"""The last line of a correction's input, with which its output goes on; multiple choice has no steps and no cue."""


def question_block(question: str, candidates: tuple[str, ...] | None = None) -> str:
    """Return ``Question: ...`` and, for multiple choice, a line with the candidates."""
    if not candidates:
        return f"Question: {question}"
    return f"Question: {question}\nCandidate Answers: {', '.join(candidates)}."


def path_input(prompts: str, question: str, candidates: tuple[str, ...] | None = None) -> str:
    """Return the input of a CoT example, which is also the prompt of a fine-tuned student (paper, section 2.3)."""
    return f"{load(prompts).path.instruction}\n\n{question_block(question, candidates)}\n{THINK}"


def correction_input(
    prompts: str,
    question: str,
    original: str,
    candidates: tuple[str, ...] | None = None,
    shape: Shape = "steps",
    *,
    cue: bool = True,
) -> str:
    """Return the input of a correction example, which is also the prompt of a corrector.

    Args:
        prompts: the prompt set.
        question: the question.
        original: the mistaken path; its steps are numbered if they are not yet.
        candidates: the choices of a multiple-choice question.
        shape: ``choice`` and ``whole`` have no steps to number and no cue.
        cue: False leaves the cue out, for an output that names no step.
    """
    block = solution_block(question, original, candidates, shape)
    last = f"\n{CUE}" if cue and shape == "steps" else ""
    return f"{load(prompts).correction.instruction}\n\n{block}{last}"


def solution_block(
    question: str, original: str, candidates: tuple[str, ...] | None = None, shape: Shape = "steps"
) -> str:
    """Return the question and, in braces, a solution of it as numbered steps (``choice``: as it is)."""
    solution = numbered_path(original) if shape == "steps" else original.strip()
    return f"{question_block(question, candidates)}\nOriginal Solution:\n{{\n{solution}\n}}"


def correction_output(
    step: int, explanation: str | None, solution: str | None, *, name_step: bool = True, shape: Shape = "steps"
) -> str:
    """Return the output of a correction example; a part that is None is left out with its label.

    Args:
        step: 1-based number of the first wrong step; with 1 there is no earlier step for the ``...`` line to stand for.
        explanation: why the step is wrong.
        solution: the numbered steps from ``step`` on, with the answer line.
        name_step: whether the output starts with ``Step k.``.
        shape: ``choice`` and ``whole`` have neither a step nor braces.
    """
    if shape != "steps":
        # A whole answer may be code, whose lines keep their place: it stands below its label.
        answer = "Corrected Answer:\n" if shape == "whole" else "Corrected Answer: "
        parts = [("Mistakes: ", explanation), (answer, solution)]
        return "\n".join(label + text.strip() for label, text in parts if text is not None)
    lines = [f"Step {step}." if name_step else None, None if explanation is None else f"Explanation: {explanation}"]
    if solution is not None:
        dots = "...\n" if step > 1 else ""
        lines.append(f"Correct Solution:\n{{\n{dots}{solution.strip()}\n}}")
    return "\n".join(line for line in lines if line is not None)


def path_prompt(prompts: str, question: str, candidates: tuple[str, ...] | None = None, shots: int = 4) -> Messages:
    """Return the few-shot chat for a reasoning path: worked examples as turns, then the question.

    Without shots it is the zero-shot prompt: one user turn with the CoT example's input.
    """
    turns = [
        (path_input(prompts, example.question, example.candidates), example.solution)
        for example in load(prompts).path.examples[:shots]
    ]
    return _chat(turns, path_input(prompts, question, candidates))


def correction_prompt(
    prompts: str,
    question: str,
    original: str,
    candidates: tuple[str, ...] | None = None,
    shape: Shape = "steps",
) -> Messages:
    """Return the chat that asks a corrector: worked corrections as turns, then the mistaken path."""
    turns = [
        (correction_input(prompts, example.question, example.original, example.candidates, shape), example.correction)
        for example in load(prompts).correction.examples
    ]
    return _chat(turns, correction_input(prompts, question, original, candidates, shape))


def evolution_prompt(prompts: str, question: str, candidates: tuple[str, ...] | None = None) -> Messages:
    """Return the chat that asks for a new question related to this one (paper, section 2.2)."""
    part = load(prompts).evolution
    given = question if not candidates else f"{question} [{'; '.join(candidates)}]"
    turns = [
        (f"{part.instruction}\n\n{GIVEN} {example.given}", f"{CREATED} {example.created}") for example in part.examples
    ]
    return _chat(turns, f"{part.instruction}\n\n{GIVEN} {given}")


def _chat(turns: list[tuple[str, str]], last: str) -> Messages:
    messages: list[Mapping[str, str]] = []
    for asked, answered in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return (*messages, {"role": "user", "content": last})


Part = Literal["path", "correction", "critique", "refinement", "evolution", "check"]
Stripped = Annotated[str, BeforeValidator(str.strip)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PathExample(_Model):
    """A question with a worked solution."""

    question: Stripped
    solution: Stripped
    candidates: tuple[str, ...] | None = None


class CorrectionExample(_Model):
    """A mistaken solution with its correction, in the paper's text form."""

    question: Stripped
    original: Stripped
    correction: Stripped
    candidates: tuple[str, ...] | None = None


class EvolutionExample(_Model):
    """A question and one that was created from it."""

    given: Stripped
    created: Stripped


class PathPart(_Model):
    """The prompt for a reasoning path."""

    instruction: Stripped
    examples: tuple[PathExample, ...]


class CorrectionPart(_Model):
    """The prompt for a correction."""

    instruction: Stripped
    examples: tuple[CorrectionExample, ...]


class EvolutionPart(_Model):
    """The prompt for a new question."""

    instruction: Stripped
    examples: tuple[EvolutionExample, ...]


class InstructionPart(_Model):
    """The instruction of a training format; no endpoint sees it."""

    instruction: Stripped


class PromptSet(_Model):
    """The prompts of a task. The file of a task of one's own may hold ``path`` and ``correction`` alone."""

    path: PathPart
    correction: CorrectionPart
    critique: InstructionPart = InstructionPart(
        instruction="Say what is wrong with the solution below, and conclude whether it is right or wrong."
    )
    refinement: InstructionPart = InstructionPart(
        instruction="Correct the solution below by the critique of it, and give the whole corrected solution."
    )
    check: InstructionPart = InstructionPart(
        instruction="Check your answer above, step by step. If something in it is wrong, correct it. Then give the "
        "whole solution once more, in the same form, with its answer at the end."
    )
    """What a model is asked in the second turn of an evaluation with `two_turns`."""
    evolution: EvolutionPart = EvolutionPart(instruction="", examples=())
    """Without an instruction, no questions can be made from those of the task."""
    texts: dict[str, str] = {}
    """Texts for a scorer of one's own, such as the rubric of a judge: ``context.texts`` has them."""


def names() -> tuple[str, ...]:
    """Return the bundled sets' names."""
    folder = resources.files(__package__)
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")))


@cache
def load(name: str) -> PromptSet:
    """Return a bundled set by its name, or a file's by ``set_in_file``.

    Raises:
        ConfigError: there is none of that name, its file is malformed, or has changed since it was named.
    """
    file, mark, sha = name.rpartition("#")
    if mark:
        now, found = _read(file)
        if now != sha:
            raise ConfigError(
                f"{file} changed while the run was under way. Run again, with a file that stays as it is."
            )
        return found
    if name not in names():
        raise ConfigError(f"There is no prompt set {name!r}. Expected one of {', '.join(names())}.")
    text = resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    try:
        return PromptSet.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"The prompt set {name} is malformed: {error}. Expected the parts of PromptSet.") from error


def set_in_file(file: Path) -> str:
    """Return what names the prompt set of a file in ``load``: its place and the hash of its text.

    Raises:
        ConfigError: the file cannot be read, or is malformed.
    """
    return f"{file}#{_read(str(file))[0]}"


def _read(file: str) -> tuple[str, PromptSet]:
    try:
        data = Path(file).read_bytes()
        found = PromptSet.model_validate(tomllib.loads(data.decode("utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"The prompt set {file} is malformed at {place}: {first['msg']}. docs/tasks.md lists its parts."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"The prompt set {file} cannot be read as TOML: {error}") from None
    return hashlib.sha256(data).hexdigest()[:16], found


def prompt_text(name: str, part: Part) -> str:
    """Return a part of a set as canonical JSON: its instruction and examples, without comments and layout."""
    model: BaseModel = getattr(load(name), part)
    return model.model_dump_json(exclude_none=True)


def fingerprint(name: str, part: Part) -> str:
    """Return the hash of a part's text and of the layout that all sets share, for an artifact's identity."""
    return hashlib.sha256(f"{LAYOUT_VERSION}\n{prompt_text(name, part)}".encode()).hexdigest()[:16]


LAYOUT_VERSION = 1
"""Raised when the same parts are put together in another way."""

"""The simulated student: right and wrong paths made from the gold rationale by seeded changes. Not a language model.

A wrong path has one mistake of a kind that real solutions have (a false result, another operation, a number taken for
another, a step left out, an end too early); what depends on it is computed again, so that the mistake runs through to
the answer as it does in real paths.
"""

import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from lema_core.llm.simulated.rewriting import numbers_of, rewrite, sensible, substitute, with_result
from lema_core.reference_corrector import Problem
from lema_core.reference_corrector.repair import plain
from lema_core.step_checker.equations import equations
from lema_core.steps import render_path, split_path

NO_ANSWER_SHARE = 0.02
"""Share of wrong paths that end without an answer, as real ones do."""
_OPENINGS = ("", "", "", "So ", "Then ", "Next, ", "Now ", "Thus ")
_OPERATOR = re.compile(r"(?<=[\d)])( ?)([-+*/×])( ?)(?=[\d($])")
_OTHER = {"+": "-", "-": "+", "*": "+", "×": "+", "/": "*"}
Steps = Sequence[str]
Mistake = Callable[[Steps, random.Random], list[str] | None]


def solve(problem: Problem, rng: random.Random, error_rate: float) -> str:
    """Return a path to the problem, wrong with the given probability."""
    wrong = rng.random() < error_rate
    if problem.candidates:
        return _choose(problem, rng, wrong=wrong)
    steps = split_path(problem.rationale).steps if problem.rationale else ()
    if not steps:
        return f"The answer is {_nearby(problem.gold, rng) if wrong else problem.gold}."
    if not wrong:
        return render_path(_worded(steps, rng), f"The answer is {problem.gold}.")
    mistaken, answer = _mistaken(steps, problem.gold, rng)
    ending = None if rng.random() < NO_ANSWER_SHARE else f"The answer is {answer}."
    return render_path(_worded(mistaken, rng), ending)


def _worded(steps: Steps, rng: random.Random) -> list[str]:
    """Vary how steps begin, so that samples differ in text as well."""
    return [_opened(step, rng.choice(_OPENINGS)) for step in steps]


def _opened(step: str, opening: str) -> str:
    plain_word = step[:1].isupper() and step.split(" ", 1)[0] in {
        "The",
        "There",
        "He",
        "She",
        "They",
        "It",
        "This",
        "In",
    }
    return f"{opening}{step[0].lower()}{step[1:]}" if opening and plain_word else step


def _mistaken(steps: Steps, gold: str, rng: random.Random) -> tuple[list[str], str]:
    """Return mistaken steps and the answer they arrive at; where no mistake works out, a misread answer."""
    kinds: list[Mistake] = [_false_result, _other_operation, _other_number, _left_out, _too_early]
    rng.shuffle(kinds)
    for make in kinds:
        mistaken = make(steps, rng)
        arrived = numbers_of(mistaken[-1]) if mistaken else []
        if mistaken and arrived and plain(arrived[-1]) != gold.replace(",", ""):
            return mistaken, plain(arrived[-1])
    return list(steps), _nearby(gold, rng)


def _place(steps: Steps, rng: random.Random) -> int | None:
    computing = [index for index, step in enumerate(steps) if equations(step)]
    return rng.choice(computing) if computing else None


def _goes_on(steps: Steps, index: int, changed: str, mapping: dict[Fraction, Fraction]) -> list[str] | None:
    rest = rewrite(steps[index + 1 :], mapping)
    return None if rest is None else [*steps[:index], changed, *rest]


def _false_result(steps: Steps, rng: random.Random) -> list[str] | None:
    index = _place(steps, rng)
    if index is None:
        return None
    equation = equations(steps[index])[-1]
    size = max(1, abs(int(equation.value)) // 10)
    wrong = equation.value + rng.choice((-1, 1)) * rng.choice((1, 2, size, 10))
    if not sensible(wrong):
        return None
    return _goes_on(steps, index, with_result(steps[index], equation, wrong), {equation.value: wrong})


def _other_operation(steps: Steps, rng: random.Random) -> list[str] | None:
    index = _place(steps, rng)
    operators = list(_OPERATOR.finditer(steps[index])) if index is not None else []
    if index is None or not operators:
        return None
    chosen = rng.choice(operators)
    text = steps[index][: chosen.start(2)] + _OTHER[chosen[2]] + steps[index][chosen.end(2) :]
    return _recompute(steps, index, text)


def _other_number(steps: Steps, rng: random.Random) -> list[str] | None:
    index = _place(steps, rng)
    if index is None:
        return None
    equation = equations(steps[index])[-1]
    others = sorted(
        {number for step in steps for number in numbers_of(step)} - set(equation.operands) - {equation.value}
    )
    if not others:
        return None
    end = equation.span[0]
    head = substitute(steps[index][:end], {rng.choice(equation.operands): rng.choice(others)})
    return _recompute(steps, index, head + steps[index][end:])


def _recompute(steps: Steps, index: int, text: str) -> list[str] | None:
    """Give a changed step the result that follows from it, and let the later steps follow."""
    was, now = equations(steps[index]), equations(text)
    if len(was) != len(now) or not sensible(now[-1].computed):
        return None
    changed = with_result(text, now[-1], now[-1].computed)
    return _goes_on(steps, index, changed, {was[-1].value: now[-1].computed})


def _left_out(steps: Steps, rng: random.Random) -> list[str] | None:
    if len(steps) < 3:
        return None
    index = rng.randrange(len(steps) - 1)
    found = equations(steps[index])
    if not found:
        return None
    rest = rewrite(steps[index + 1 :], {found[-1].value: found[-1].operands[0]})
    return None if rest is None else [*steps[:index], *rest]


def _too_early(steps: Steps, rng: random.Random) -> list[str] | None:
    return list(steps[: rng.randrange(1, len(steps))]) if len(steps) > 1 else None


def _choose(problem: Problem, rng: random.Random, *, wrong: bool) -> str:
    candidates = problem.candidates or ()
    gold = problem.gold.strip()
    letter = len(gold) == 1 and gold not in candidates
    names = [chr(ord("A") + index) for index in range(len(candidates))] if letter else list(candidates)
    others = [name for name in names if name != gold]
    chosen = rng.choice(others) if wrong and others else gold
    text = candidates[names.index(chosen)] if chosen in names else chosen
    if problem.rationale and not wrong:
        return problem.rationale
    reason = rng.choice(("fits the question best", "is what the question describes", "comes to mind first here"))
    return f"Compared with the other candidates, {text} {reason}.\nThe answer is {chosen}."


def _nearby(gold: str, rng: random.Random) -> str:
    """Return a wrong answer that looks like the right one."""
    numbers = numbers_of(gold)
    if not numbers:
        return f"not {gold}"
    wrong = numbers[0] + rng.choice((1, 2, 10))
    return substitute(gold, {numbers[0]: wrong})

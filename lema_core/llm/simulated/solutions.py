"""Solutions and questions made from gold rationales by seeded changes: wrong paths, and variants. No language model.

A wrong path has one mistake of a kind that real solutions have (a false result, another operation, a number taken for
another, a step left out, an end too early). What depends on it is computed again, so that the mistake runs through to
the answer, as it does in real paths.

A variant of a question has other numbers and names, and its rationale is computed again. Nothing is remembered: the
skeleton of a variant (numbers and names masked) finds its question, and the differences give its rationale. So a
restarted server still knows every variant it ever made.
"""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

from lema_core.reference_corrector import Problem
from lema_core.reference_corrector.repair import plain
from lema_core.step_checker.equations import Equation, equations
from lema_core.steps import render_path, split_path

_NUMBER = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![\d.,])\d+(?:\.\d+)?")
LARGEST = 10**9


def numbers_of(text: str) -> list[Fraction]:
    """Return the numbers a text has in digits, in order."""
    return [_value(found) for found in _NUMBER.findall(text)]


def substitute(text: str, mapping: Mapping[Fraction, Fraction]) -> str:
    """Replace every number of the text that the mapping names."""

    def replaced(found: re.Match[str]) -> str:
        value = _value(found[0])
        return plain(mapping[value]) if value in mapping else found[0]

    return _NUMBER.sub(replaced, text) if mapping else text


def rewrite(steps: Sequence[str], mapping: Mapping[Fraction, Fraction]) -> list[str] | None:
    """Return the steps with the numbers replaced and every result computed again.

    Results that changed are replaced in the later steps as well. None where that leads to numbers that are not
    sensible (negative, endless decimals), where a step cannot be read any more, or where one number of the steps would
    have to become two (a given 4 and a computed 4): it is unknown which of them a later step means.
    """
    known = dict(mapping)
    rewritten = []
    for step in steps:
        text = _recompute_step(step, known)
        if text is None:
            return None
        rewritten.append(text)
    return rewritten


def _recompute_step(step: str, known: dict[Fraction, Fraction]) -> str | None:
    text = substitute(step, known)
    before = equations(step)
    for index, was in enumerate(before):
        after = equations(text)
        if len(after) != len(before):
            return None
        now = after[index]
        if was.computed != was.value:
            continue  # rounded or wrong from the beginning: leave it to its author
        if not is_sensible(now.computed) or known.setdefault(was.value, now.computed) != now.computed:
            return None
        text = with_result(text, now, now.computed)
    return text


def with_result(text: str, equation: Equation, result: Fraction) -> str:
    """Return the text with another result of an equation, also where the text mentions it afterwards."""
    start, end = equation.span
    return text[:start] + plain(result) + substitute(text[end:], {equation.value: result})


def is_sensible(value: Fraction) -> bool:
    """Whether a word problem could have this number: not negative, not huge, at most two decimals."""
    return 0 <= value <= LARGEST and (value * 100).denominator == 1


def _value(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


NO_ANSWER_SHARE = 0.02
"""Share of wrong paths that end without an answer, as real ones do."""
_OPENINGS = ("", "", "", "So ", "Then ", "Next, ", "Now ", "Thus ")
_LOWERED = frozenset({"The", "There", "He", "She", "They", "It", "This", "In"})
"""First words of a step that are no names, so that they may follow an opening in lower case."""
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
        return f"The answer is {_wrong_answer_near(problem.gold, rng) if wrong else problem.gold}."
    if not wrong:
        return render_path(_vary_openings(steps, rng), f"The answer is {problem.gold}.")
    mistaken, answer = _make_mistake(steps, problem.gold, rng)
    ending = None if rng.random() < NO_ANSWER_SHARE else f"The answer is {answer}."
    return render_path(_vary_openings(mistaken, rng), ending)


def _vary_openings(steps: Steps, rng: random.Random) -> list[str]:
    """Vary how steps begin, so that samples differ in text as well."""
    varied = []
    for step in steps:
        # Drawn for every step, used or not: which steps take an opening must not shift the later draws.
        opening = rng.choice(_OPENINGS)
        takes_opening = opening and step.split(" ", 1)[0] in _LOWERED
        varied.append(f"{opening}{step[0].lower()}{step[1:]}" if takes_opening else step)
    return varied


def _make_mistake(steps: Steps, gold: str, rng: random.Random) -> tuple[list[str], str]:
    """Return mistaken steps and the answer they arrive at; where no mistake works out, a misread answer."""
    # Each kind may fail: its numbers may become negative, or it may arrive at the gold answer after all.
    kinds: list[Mistake] = [_false_result, _other_operation, _other_number, _leave_out, _stop_early]
    rng.shuffle(kinds)
    for make in kinds:
        mistaken = make(steps, rng)
        arrived = numbers_of(mistaken[-1]) if mistaken else []
        if mistaken and arrived and plain(arrived[-1]) != gold.replace(",", ""):
            return mistaken, plain(arrived[-1])
    return list(steps), _wrong_answer_near(gold, rng)


def _place(steps: Steps, rng: random.Random) -> int | None:
    computing = [index for index, step in enumerate(steps) if equations(step)]
    return rng.choice(computing) if computing else None


def _continue_with(steps: Steps, index: int, changed: str, mapping: dict[Fraction, Fraction]) -> list[str] | None:
    rest = rewrite(steps[index + 1 :], mapping)
    return None if rest is None else [*steps[:index], changed, *rest]


def _false_result(steps: Steps, rng: random.Random) -> list[str] | None:
    index = _place(steps, rng)
    if index is None:
        return None
    equation = equations(steps[index])[-1]
    size = max(1, abs(int(equation.value)) // 10)
    wrong = equation.value + rng.choice((-1, 1)) * rng.choice((1, 2, size, 10))
    if not is_sensible(wrong):
        return None
    return _continue_with(steps, index, with_result(steps[index], equation, wrong), {equation.value: wrong})


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
    if len(was) != len(now) or not is_sensible(now[-1].computed):
        return None
    changed = with_result(text, now[-1], now[-1].computed)
    return _continue_with(steps, index, changed, {was[-1].value: now[-1].computed})


def _leave_out(steps: Steps, rng: random.Random) -> list[str] | None:
    if len(steps) < 3:
        return None
    index = rng.randrange(len(steps) - 1)
    found = equations(steps[index])
    if not found:
        return None
    # The later steps go on with what the left-out step started from, as a student would who forgets it.
    rest = rewrite(steps[index + 1 :], {found[-1].value: found[-1].operands[0]})
    return None if rest is None else [*steps[:index], *rest]


def _stop_early(steps: Steps, rng: random.Random) -> list[str] | None:
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


def _wrong_answer_near(gold: str, rng: random.Random) -> str:
    """Return a wrong answer that looks like the right one."""
    numbers = numbers_of(gold)
    if not numbers:
        return f"not {gold}"
    wrong = numbers[0] + rng.choice((1, 2, 10))
    return substitute(gold, {numbers[0]: wrong})


T = TypeVar("T")

LEAD_IN = "Here is a related question. "
"""Stands before a variant of a question that has no numbers to change."""
MAX_ATTEMPTS = 12
_SKELETON_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_CAPITAL = re.compile(r"\b[A-Z][a-z]+\b")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")
_NO_NAMES = frozenset(
    re.findall(
        r"\w+",
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August "
        "September October November December How What Christmas Easter Halloween English Spanish French",
    )
)
_POOL = tuple(
    re.findall(r"\w+", "Alba Bruno Carla Dario Edith Felix Greta Hugo Irma Jonas Kira Lukas Mara Nils Olga Petra")
)


def vary(problem: Problem, rng: random.Random) -> str:
    """Return the text of a new question like this one."""
    for _ in range(MAX_ATTEMPTS):
        given = dict.fromkeys(numbers_of(problem.question))
        numbers = {number: _change_number(number, rng) for number in given if number.denominator == 1 and number > 1}
        text = _rename(substitute(problem.question, numbers), rng)
        if numbers and _recompute_rationale(problem, numbers) is not None:
            return text
    return LEAD_IN + problem.question


def _change_number(number: Fraction, rng: random.Random) -> Fraction:
    if number <= 20:
        return Fraction(rng.choice([n for n in range(max(2, int(number) - 3), int(number) + 6) if n != number]))
    return number * rng.choice((2, 3, 4)) if number % 2 else number * rng.choice((Fraction(1, 2), 2, 3))


def _rename(text: str, rng: random.Random) -> str:
    names = [name for name in dict.fromkeys(_NAME.findall(text)) if name not in _NO_NAMES]
    drawn = dict(zip(names, rng.sample(_POOL, min(len(names), len(_POOL))), strict=False))
    return _CAPITAL.sub(lambda found: drawn.get(found[0], found[0]), text)


def _recompute_rationale(problem: Problem, numbers: dict[Fraction, Fraction]) -> tuple[list[str], str] | None:
    """Return the rationale's steps and the answer for other numbers, None where they do not work out."""
    worked = split_path(problem.rationale).steps if problem.rationale else ()
    if not worked or numbers_of(worked[-1])[-1:] != numbers_of(problem.gold):
        return None
    # Also the numbers that stay: a number of the question keeps its meaning wherever a step uses it.
    steps = rewrite(worked, {number: number for number in numbers_of(problem.question)} | numbers)
    arrived = numbers_of(steps[-1])[-1] if steps else Fraction(0)
    return (steps, plain(arrived)) if steps and arrived > 0 else None


class Skeletons:
    """Known questions by their skeleton."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._known: dict[str, Problem] = {}
        for problem in problems:
            self._known.setdefault(_skeleton(problem.question), problem)

    def derive(self, question: str) -> Problem | None:
        """Return a variant with its rationale and gold answer, None if no known question has its skeleton."""
        text = question.strip().removeprefix(LEAD_IN)
        source = self._known.get(_skeleton(text))
        if source is None:
            return None
        # The same skeleton means the same number of numbers and capitals, so they pair up by position.
        numbers = _differences(numbers_of(source.question), numbers_of(text))
        names = _differences(_CAPITAL.findall(source.question), _CAPITAL.findall(text))
        if not numbers:
            return Problem(question, source.gold, _apply_names(source.rationale, names), source.candidates)
        worked = _recompute_rationale(source, numbers)
        if worked is None:
            return None
        steps, gold = worked
        return Problem(
            question, gold, _apply_names(render_path(steps, f"The answer is {gold}."), names), source.candidates
        )


def _differences(old: list[T], new: list[T]) -> dict[T, T]:
    return {before: after for before, after in zip(old, new, strict=False) if before != after}


def _apply_names(rationale: str | None, names: dict[str, str]) -> str | None:
    return rationale and _CAPITAL.sub(lambda found: names.get(found[0], found[0]), rationale)


def _skeleton(text: str) -> str:
    return " ".join(_CAPITAL.sub("@", _SKELETON_NUMBER.sub("#", text)).split()).casefold()

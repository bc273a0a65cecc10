r"""What a step computes, read more widely than the step checker may: here a misreading costs evidence, not a verdict.

Beyond ``left = value`` this reads an assignment whose result stands in the next one (``Total = 30 * 10. Total = 300``),
a boxed or separately delimited number (``\boxed{30}``, ``\(5\) months``), shares (``20% of 50``), operations in words,
and rounded results (``≈``). A GSM8K calculator mark counts before the prose around it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from lema_core.step_checker.equations import LIMITS, MAX_STEP_CHARS, MAX_TOKENS, Equation, equations, numbers
from lema_core.step_checker.tokens import Token, evaluate, tokenize
from lema_core.steps import split_path, strip_marks

_SIGNS = {"plus": "+", "minus": "-", "times": "*", "multiplied": "*", "divided": "/", "equals": "=", "equal": "="}
_SPELLED = re.compile(
    r"(?<=[\d%)])\s+(plus|minus|times|multiplied by|divided by|equals|equal to)\s+(?=[\d$(])", re.IGNORECASE
)
_DELIMITERS = re.compile(r"\\[()]|\\boxed\s?\{([^{}]{1,40})\}|\*\*")
_SHARE = re.compile(r"(?<=[0-9]%)\s+of\s+(?=\\?\$?[0-9])|(?<=[0-9]\\%)\s+of\s+(?=\\?\$?[0-9])")
_RUNS_ON = re.compile(r"[a-zA-Z ]{0,30}\s*(?:[-+*/×·÷]|\\times|\\cdot|\\div)\s*[$(\\\d]")
_ROUNDED = re.compile(r"≈|\\approx(?![a-z])")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a path or a rationale with what it computes."""

    text: str
    """Without calculator marks."""
    equations: tuple[Equation, ...]

    @property
    def value(self) -> Fraction | None:
        """Return what the step arrives at: its last equation's value, else the last number it states."""
        if self.equations:
            return self.equations[-1].value
        stated = numbers(self.text)
        return stated[-1] if stated else None

    @property
    def values(self) -> list[Fraction]:
        """Return the values of all its equations."""
        return [equation.value for equation in self.equations]


def read_steps(path_text: str) -> tuple[Step, ...]:
    """Return the steps of a path or rationale with their equations."""
    return tuple(
        Step(" ".join(strip_marks(step).split()), tuple(_equations(step)))
        for step in split_path(path_text, keep_marks=True).steps
    )


def _equations(step: str) -> list[Equation]:
    if "<<" in step:
        return equations(_SPELLED.sub(_in_signs, step))
    text = _DELIMITERS.sub(lambda found: f" {found[1] or ''} ", step[:MAX_STEP_CHARS])
    text = _ROUNDED.sub("=", _SHARE.sub(" * ", _SPELLED.sub(_in_signs, text)))
    found = [
        # In ``20 + (2 * 30) = 20 + 60`` the number behind the sign begins the next expression.
        replace(equation, value=equation.computed) if _RUNS_ON.match(text, equation.span[1]) else equation
        for equation in equations(text)
    ]
    found += _assignments(text)
    return sorted(found, key=lambda equation: equation.span)


def _in_signs(spelled: re.Match[str]) -> str:
    """Write a spelled-out operation as a sign: ``9 plus 3 equals 12``."""
    return f" {_SIGNS[spelled[1].lower().split()[0]]} "


def _assignments(text: str) -> Iterator[Equation]:
    """Yield ``name = expression`` without a result of its own: the next assignment's number is its result, if any."""
    tokens = tokenize(text)
    signs = [index for index, token in enumerate(tokens) if token.kind == "="]
    for place, sign in enumerate(signs):
        run = _run(tokens, sign + 1)
        if run is None:
            continue
        evaluated = evaluate(run, limits=LIMITS)
        if evaluated is None or "neg" in evaluated[1]:
            continue
        computed, postfix = evaluated
        value, end = computed, (run[-1].start, run[-1].end)
        literal = evaluated[1] == (0, 1, "/") and 0 < computed < 1
        if place + 1 < len(signs) and (stated := _lone_number(tokens, signs[place + 1] + 1)) is not None:
            value, end, literal = stated.value, (stated.start, stated.end), False
        if literal:
            continue  # a ratio or a share, and nothing is computed of it
        operands = tuple(token.value / 100 if token.percent else token.value for token in run if token.kind == "num")
        operators = tuple(token.text for token in run if token.kind == "op")
        written = f"{text[run[0].start : run[-1].end]} = {text[end[0] : end[1]]}"
        if value == computed:
            written = " ".join(text[run[0].start : run[-1].end].split())
        yield Equation(" ".join(written.split()), operands, operators, value, computed, postfix, end)


def _run(tokens: Sequence[Token], start: int) -> list[Token] | None:
    """Return the expression that begins at an index and that no equals sign follows; unit words are dropped."""
    run: list[Token] = []
    for token in tokens[start : start + MAX_TOKENS]:
        if token.kind in {"=", "approx", "var"}:
            return None
        if token.kind == "cut":
            break
        if token.kind == "word":
            continue
        if run and run[-1].kind in {"num", ")"} and token.kind in {"num", "("}:
            break
        run.append(token)
    return run if any(token.kind == "op" for token in run) else None


def _lone_number(tokens: Sequence[Token], start: int) -> Token | None:
    """Return the number right behind an equals sign, unless it begins an expression."""
    following = [token for token in tokens[start : start + 3] if token.kind != "word"]
    if not following or following[0].kind != "num":
        return None
    return None if len(following) > 1 and following[1].kind in {"op", "(", "=", "var"} else following[0]

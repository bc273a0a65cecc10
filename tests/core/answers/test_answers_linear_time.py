"""Every public function of the answers that takes model text is linear in it: hostile patterns at two sizes, CPU time.

What is bounded by a cap (an answer of 4,000 characters, a phrase of 400) is measured up to its cap.
"""

from types import SimpleNamespace

import pytest
from hostile_texts import patterns, repeated, superlinear

from lema_core.answers import extract
from lema_core.answers.choice import choose, match_choice
from lema_core.answers.cues import conclude, find_cues
from lema_core.answers.extraction import read_answer, strip_end_tokens, strip_thinking
from lema_core.answers.formulas import (
    computed_side,
    find_boxes,
    formulas,
    leading_formula,
    stated_side,
    without_formulas,
)
from lema_core.answers.lexer import not_an_answer, to_ascii, tokens_of
from lema_core.answers.phrases import denies, denies_box, denies_following, denies_own_value, takes_back
from lema_core.answers.quantity import explains, hedges, only_quantity
from lema_core.answers.results import MAX_ANSWER_CHARS
from lema_core.answers.structure import parse_answer
from lema_core.answers.worker_pool import too_heavy
from lema_core.step_checker import false_equations
from lema_core.verdicts import mistake_key

CANDIDATES = ("bank", "a b", "word word")

WHOLE_TEXTS = {
    "extract, numeric": lambda text: extract(text, "numeric", loose=True),
    "extract, latex": lambda text: extract(text, "latex", loose=True),
    "extract, choice": lambda text: extract(text, "choice", CANDIDATES, loose=True),
    "extract behind a cue": lambda text: extract("The answer is 5. " + text, "latex"),
    "extract in front of a cue": lambda text: extract(text + "\nThe answer is 5, I think", "numeric"),
    "read_answer": lambda text: read_answer(text, "latex"),
    "false_equations": false_equations,
    "mistake_key": lambda text: mistake_key(SimpleNamespace(question_id="q", answer="5", text="Step 1: " + text)),
    "find_cues": lambda text: find_cues(text, "choice"),
    "find_boxes": lambda text: find_boxes(text, [(cue.start, cue.end) for cue in find_cues(text, "latex")][-50:]),
    "formulas": lambda text: (list(formulas(text)), without_formulas(text), leading_formula(text)),
    "thinking": lambda text: (strip_thinking(text), strip_end_tokens(text), strip_end_tokens("<|a|>" + text + "</s>")),
    "limits": lambda text: (not_an_answer(text), too_heavy(text[:500])),
    "conclude": lambda text: conclude("Therefore, it is " + text, "latex"),
    "phrases": lambda text: (
        takes_back(text, "5"), denies_following(text), denies(text), denies_box(text), denies_own_value(text),
        explains(text, "5"),
    ),
}  # fmt: skip
ANSWERS = {
    "only_quantity": lambda text: only_quantity(text, "answer"),
    "hedged": lambda text: hedges(text, text),
    "choose": lambda text: choose(text, CANDIDATES),
    "match_choice": lambda text: match_choice("B", text, CANDIDATES),
    "sides": lambda text: (computed_side(text), stated_side(text)),
    "to_ascii": to_ascii,
    "tokens_of": tokens_of.__wrapped__,
    "parse_answer": parse_answer,
}


@pytest.mark.parametrize("name", WHOLE_TEXTS)
def test_functions_of_whole_texts_are_linear(name):
    assert superlinear(WHOLE_TEXTS[name]) == []


@pytest.mark.parametrize("name", ANSWERS)
def test_functions_of_answers_are_linear_up_to_their_cap(name):
    assert superlinear(ANSWERS[name], small=MAX_ANSWER_CHARS // 4) == []


def test_the_catalogue_is_wide_and_holds_its_sizes():
    small, large = patterns(1_000), patterns(4_000)
    assert len(small) >= 150
    assert small.keys() == large.keys()
    assert all(900 <= len(text) <= 1_050 for text in small.values())


def test_a_quadratic_function_is_found():
    def quadratic(text):
        return sum(1 for end in range(0, len(text), 4) for _ in range(0, end, 4))

    texts = {"digits": "7"}
    found = superlinear(quadratic, lambda size: {name: repeated(unit, size) for name, unit in texts.items()})
    assert len(found) == 1

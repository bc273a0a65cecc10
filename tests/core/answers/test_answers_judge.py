"""Judging in batches and streams, a scorer of the user's own, and the guard: nothing raises because of a row."""

import json

import pyarrow as pa
import pytest

from lema_core.answers import MatchPolicy, extract, extraction, judge, judge_batch, majority_vote, match, matching
from lema_core.answers.judge import verify_pair
from lema_core.answers.results import family_of, ignored_family, takes_kind
from lema_core.errors import ConfigError


def test_a_batch_of_arrow_columns_keeps_the_rows_and_their_order():
    texts = pa.chunked_array([["#### 5", None], ["The answer is 1/2.", "18 or 19"]])
    golds = pa.array(["5", "5", "0.5", "18"])
    table = judge_batch(texts, golds, "numeric")
    assert table.column("verdict").to_pylist() == ["right", "none", "right", "none"]
    assert table.column("answer").to_pylist() == ["5", None, "1/2", None]
    assert table.column_names == ["verdict", "answer", "decided_by"]


def test_a_batch_of_choices():
    table = judge_batch(
        pa.array(["The answer is (B)."]),
        pa.array(["mall"]),
        "choice",
        pa.array([["bank", "mall"]], pa.list_(pa.string())),
    )
    assert table.column("verdict").to_pylist() == ["right"]


class Backwards:
    """A user's scorer: answers are written backwards."""

    @staticmethod
    def extract(text):
        if text == "broken":
            raise RuntimeError("no")
        return text[::-1] or None

    @staticmethod
    def match(gold, answer):
        return None if gold == "?" else gold == answer


@pytest.fixture
def scorer(monkeypatch):
    import sys
    from types import ModuleType

    module = ModuleType("a_users_module")
    module.backwards = Backwards()
    module.empty = object()
    monkeypatch.setitem(sys.modules, "a_users_module", module)
    return "a_users_module:backwards"


def test_a_users_scorer_extracts_and_matches(scorer):
    assert judge("81", "18", scorer).verdict == "right"
    assert judge("82", "18", scorer).verdict == "wrong"
    assert judge("", "18", scorer).verdict == "none"
    assert match("?", "18", scorer).outcome == "unknown"
    assert extract("broken", scorer).outcome == "refused"


@pytest.mark.parametrize("name", ["no_such_module_here:x", "a_users_module:nothing", "a_users_module:empty"])
def test_a_scorer_that_cannot_be_used_is_an_error_with_a_remedy(scorer, name):
    with pytest.raises(ConfigError, match="scorer"):
        judge("81", "18", name)


ODD = [
    ("x^2+y^2=9", r"\sqrt{x^2+y^2}=3"), ("y=2x+1", r"y-2x=\sqrt{1}"), ("2x+3y=6", r"\sqrt2 x+3y=6"), ("", ""),
    ("=", "="), ("x=", "=x"), ("\ud800", "\ud800"), ("0/0", r"\frac{0}{0}"), ("\x00", "5"), ("{" * 3000, "}" * 3000),
    (r"\begin{cases}", r"\end{cases}"), ("x^{x^{x}}=1", "y^{y^{y}}=1"), (r"\frac{1}{x}=0", "x=\\infty"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "pred"), ODD)
@pytest.mark.parametrize("family", ["numeric", "latex", "choice", "text"])
def test_odd_pairs_raise_nothing(gold, pred, family):
    for left, right in ((gold, pred), (pred, gold)):
        assert verify_pair(left, right, family, ("a", "b")).verdict in {"equal", "different", "unknown"}
        judge("The answer is " + right, left, family, ("a", "b"))


@pytest.fixture
def broken_layers(monkeypatch):
    """A defect in the layers of extraction and comparison, met by a row with the word "boom" in it."""

    def breaking(function):
        def call(text, *args, **kwargs):
            if "boom" in text or any("boom" in str(argument) for argument in args):
                raise RecursionError("a defect of ours, met by one row")
            return function(text, *args, **kwargs)

        return call

    monkeypatch.setattr(extraction, "strip_thinking", breaking(extraction.strip_thinking))
    monkeypatch.setattr(matching, "match_light", breaking(matching.match_light))


def test_a_defect_met_by_one_row_is_an_outcome_of_that_row(broken_layers):
    assert extract("boom: the answer is 5 or so", "latex").outcome == "refused"
    assert match("boom", "5").layer == "error"
    assert judge("the answer is boom", "5", "latex").verdict == "refused"
    assert judge("#### 5", "boom").verdict == "unknown"
    assert judge("#### 5", "boom").decided_by == "error"
    assert verify_pair("boom", "the answer is boom").verdict == "unknown"
    assert majority_vote(["boom", "5", "5"], "latex").answer == "5"
    table = judge_batch(pa.array(["#### 5", "boom is the answer", "#### 5"]), pa.array(["5", "5", "boom"]), "numeric")
    assert table.column("verdict").to_pylist() == ["right", "refused", "unknown"]


@pytest.mark.parametrize(
    ("row", "family"),
    [
        ({}, "latex"),
        ({"family": "numeric", "task": "math", "kind": "text"}, "numeric"),
        ({"task": "GSM8K", "kind": "text"}, "numeric"),
        ({"candidates": ["a"], "kind": "text"}, "choice"),
        ({"kind": "text"}, "text"),
        ({"kind": "short"}, "latex"),
        *[
            ({name: label}, "latex")
            for name in ("family", "kind", "task")
            for label in (
                "evil:s",
                "os:system",
                "antigravity:x",
                ":",
                "Numeric",
                "numeric ",
                "",
                5,
                ["numeric"],
                {},
                None,
            )
        ],
    ],
)
def test_a_row_names_one_of_the_four_families_and_nothing_else(row, family):
    assert family_of(row) == family
    assert family_of(json.loads(json.dumps(row))) == family
    named = row.get("family")
    assert ignored_family(row) == (None if named is None or named == "numeric" else str(named))
    assert takes_kind(row) == (row == {"kind": "text"})


def test_the_scorer_that_the_user_gave_may_stand_in_the_rows(scorer):
    assert family_of({"family": scorer}, scorer) == scorer
    assert family_of({"family": scorer}) == "latex"


def test_a_policy_reaches_every_comparison():
    loose = MatchPolicy(units="ignore", currencies="ignore")
    assert verify_pair("5 cm", "5 m").verdict != "equal"
    assert verify_pair("5 cm", "5 m", policy=loose).verdict == "equal"
    assert judge(r"\boxed{5\text{ m}}", r"5\text{ cm}", "latex").verdict != "right"
    assert judge(r"\boxed{5\text{ m}}", r"5\text{ cm}", "latex", policy=loose).verdict == "right"
    assert majority_vote(["5 cm", "5 m", "6"], "latex").count == 1
    assert majority_vote(["5 cm", "5 m", "6"], "latex", policy=loose).count == 2
    texts, golds = pa.array([r"\boxed{5\text{ m}}"]), pa.array([r"5\text{ cm}"])
    assert judge_batch(texts, golds, "latex", policy=loose).column("verdict").to_pylist() == ["right"]

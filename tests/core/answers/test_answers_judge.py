"""Judging in batches and streams, and a scorer of the user's own."""

import pyarrow as pa
import pytest

from lema_core.answers import extract, judge, judge_batch, match
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

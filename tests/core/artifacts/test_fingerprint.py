from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from lema_core.artifacts import Identity, canonical_json
from lema_core.errors import UnstableValueError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True)
    temperature: float = 0.7
    samples: int = 4


class Colour(Enum):
    RED = "red"


@dataclass
class Opaque:
    x: int = 1


@given(st.dictionaries(st.text(), json_values))
def test_the_order_of_keys_does_not_matter(value):
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(backwards)


@given(json_values, json_values)
def test_equal_texts_only_for_equal_values(left, right):
    if canonical_json(left) == canonical_json(right):
        assert left == right


def test_a_whole_float_is_the_integer():
    assert canonical_json({"t": 1.0}) == canonical_json({"t": 1})


def test_a_model_is_its_fields_and_an_enum_its_value():
    assert canonical_json(Spec()) == '{"samples":4,"temperature":0.7}'
    assert canonical_json(Colour.RED) == '"red"'


@pytest.mark.parametrize("value", [{1, 2}, Opaque(), Path("a"), float("nan"), float("inf"), b"x", {1: 2}, lambda: 1])
def test_unstable_values_are_refused_and_named(value):
    with pytest.raises(UnstableValueError, match=r"value\.inner"):
        canonical_json({"inner": value})


def test_every_part_of_an_identity_changes_the_fingerprint():
    base = Identity("corrections", Spec(), ("abc",), "prompt", 1)
    others = [
        Identity("verdicts", Spec(), ("abc",), "prompt", 1),
        Identity("corrections", Spec(samples=5), ("abc",), "prompt", 1),
        Identity("corrections", Spec(), ("abd",), "prompt", 1),
        Identity("corrections", Spec(), ("abc",), "prompt.", 1),
        Identity("corrections", Spec(), ("abc",), "prompt", 2),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 6
    assert Identity("corrections", Spec(temperature=0.70), ("abc",), "prompt", 1).fingerprint == base.fingerprint

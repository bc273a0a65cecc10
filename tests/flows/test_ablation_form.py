import pytest
from prefect.utilities.callables import parameter_schema

from flows.ablation_form import ablation_form, swept_by
from lema_core.ablation.specs import AblationSpec
from lema_core.errors import ConfigError
from lema_core.mixture import ARMS
from lema_core.specs import RunSpec

RUN = RunSpec.model_validate(
    {
        "name": "form",
        "questions": {"task": "arithmetic", "limit": 4},
        "ablation": {"arms": ["lema", "cot"], "reference": "cot", "seeds": [0, 1]},
    }
)


def test_the_form_says_what_each_field_is_and_offers_the_arms():
    schema = parameter_schema(ablation_form.fn).model_dump()
    assert schema["required"] == []
    assert all(field["description"] for field in schema["properties"].values())
    assert schema["properties"]["arms"]["items"]["enum"] == list(ARMS)
    (base,) = (d for name, d in schema["definitions"].items() if name == "BaseModelSpec")
    assert all(field["description"] for field in base["properties"].values())


def test_what_is_filled_in_takes_the_place_of_the_run_files_own():
    assert swept_by(RUN, {}).ablation == RUN.ablation
    changed = swept_by(RUN, {"seeds": [7], "parallel": 2}).ablation
    assert changed == AblationSpec(arms=("lema", "cot"), reference="cot", seeds=(7,), parallel=2)
    other = swept_by(RUN, {"arms": ["lema", "critique"]}).ablation
    assert (other.arms, other.reference) == (("lema", "critique"), None), "the file's reference is none of these arms"
    plain = RUN.model_copy(update={"ablation": None})
    assert swept_by(plain, {"arms": ["cot"]}).ablation == AblationSpec(arms=("cot",))


@pytest.mark.parametrize(
    ("filled", "message"),
    [
        ({"seeds": [1, 1]}, "1 stands there twice"),
        ({"reference": "critique"}, "'critique' is none of the arms"),
        ({"settings": {"two words": {}}}, "settings"),
    ],
)
def test_a_wrong_field_is_named(filled, message):
    with pytest.raises(ConfigError, match=message) as told:
        swept_by(RUN, filled)
    assert "the form of the sweep" in str(told.value)

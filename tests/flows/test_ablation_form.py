from importlib import import_module
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema
from support import AUTH

from flows.ablation_form import ablation_form, fill_in_sweep
from lema_core.ablation.specs import AblationSpec
from lema_core.errors import ConfigError
from lema_core.mixture import ARMS
from lema_core.run.spec import RunSpec

ROOT = Path(__file__).resolve().parents[2]
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
    assert fill_in_sweep(RUN, {}).ablation == RUN.ablation
    changed = fill_in_sweep(RUN, {"seeds": [7], "parallel": 2}).ablation
    assert changed == AblationSpec(arms=("lema", "cot"), reference="cot", seeds=(7,), parallel=2)
    other = fill_in_sweep(RUN, {"arms": ["lema", "critique"]}).ablation
    assert (other.arms, other.reference) == (("lema", "critique"), None), "the file's reference is none of these arms"
    plain = RUN.model_copy(update={"ablation": None})
    assert fill_in_sweep(plain, {"arms": ["cot"]}).ablation == AblationSpec(arms=("cot",))


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
        fill_in_sweep(RUN, filled)
    assert "the form of the sweep" in str(told.value)


def test_the_deployment_is_the_form():
    described = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    (entry,) = [one["entrypoint"] for one in described if one["name"] == "ablation"]
    module, _, name = entry.rpartition(".")
    assert getattr(import_module(module), name) is ablation_form


@pytest.mark.slow
async def test_the_server_refuses_what_the_form_does_not_offer(prefect_api, tmp_path):
    with temporary_settings({PREFECT_API_URL: prefect_api, PREFECT_API_AUTH_STRING: AUTH[prefect_api]}):
        deployment = await (await ablation_form.to_deployment("form")).apply()
        async with get_client() as client:
            for parameters, said in (
                ({"arms": ["lemma"]}, "'lemma' is not one of"),
                ({"seeds": [-1]}, "less than the minimum"),
                ({"bases": [{"name": "x"}]}, "'train' is a required property"),
            ):
                with pytest.raises(PrefectHTTPStatusError) as refused:
                    await client.create_flow_run_from_deployment(deployment, parameters=parameters)
                assert said in refused.value.response.text
            accepted = await client.create_flow_run_from_deployment(
                deployment, parameters={"arms": ["cot", "lema"], "own_arms": ["mine"], "seeds": [0, 1]}
            )
            assert accepted.parameters["arms"] == ["cot", "lema"]
            await client.delete_deployment(deployment)

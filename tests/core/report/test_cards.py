import dataclasses

import pytest
from huggingface_hub import DatasetCard, ModelCard

from lema_core.errors import ConfigError
from lema_core.report.cards import CardSource, check_card, dataset_card, model_card
from lema_core.report.prose import summarize

SOURCES = (
    CardSource(name="GSM8K", kind="questions", licence="mit", url="https://github.com/openai/grade-school-math"),
    CardSource(name="SmolLM2-135M-Instruct", kind="student", licence="apache-2.0"),
)


def a_dataset_card(data, **changes):
    options = {
        "name": "Corrections: arithmetic", "licence": "cc-by-4.0", "sources": SOURCES, "rows": 1096,
        "configs": {"corrections": "corrections/*.parquet", "examples": "mixture/lema/*.parquet"},
    }  # fmt: skip
    return dataset_card(data, **options | changes)


def a_model_card(data, **changes):
    options = {"name": "smollm2-lema", "arm": "lema", "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    return model_card(data, **options | {"licence": "apache-2.0"} | changes)


def test_the_dataset_card_is_read_by_the_hubs_library(sample):
    card = DatasetCard(a_dataset_card(sample))
    assert card.data.license == "cc-by-4.0"
    assert card.data.size_categories == ["1K<n<10K"]
    assert card.data.pretty_name == "Corrections: arithmetic"
    assert card.data.to_dict()["configs"][0] == {"config_name": "corrections", "data_files": "corrections/*.parquet"}
    for word in ("1,187", "1,096", "GSM8K", "apache-2.0", "wrong answer", "an2023lema"):
        assert word in card.text


def test_the_model_card_carries_its_result_as_the_hub_shows_it(sample):
    card = ModelCard(a_model_card(sample, datasets=["me/corrections"]))
    (result,) = card.data.eval_results
    assert result.metric_type == "accuracy"
    assert result.metric_value == pytest.approx(100 * sample.evaluation.score("lema").accuracy.value, abs=0.01)
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.data.datasets == ["me/corrections"]


def test_the_model_card_names_the_task_that_was_tested(sample):
    asked = dataclasses.replace(sample, task="gsm8k", test_task="svamp")
    (result,) = check_card(a_model_card(asked))["model-index"][0]["results"]
    assert result["dataset"]["type"] == "svamp"
    assert result["dataset"]["name"].startswith("svamp, ")
    assert "held-out questions of another task (svamp)" in summarize(asked).lede
    assert "of another task" not in summarize(dataclasses.replace(asked, test_task="gsm8k")).lede


def test_a_model_that_was_not_evaluated_has_a_card_without_results(sample):
    text = a_model_card(dataclasses.replace(sample, evaluation=None))
    assert "model-index" not in check_card(text)
    assert "## Accuracy" not in text


def test_an_arm_that_the_run_did_not_evaluate_is_refused(sample):
    with pytest.raises(ConfigError, match=r"did not evaluate the arm 'dpo'"):
        a_model_card(sample, arm="dpo")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"licence": "MIT License"}, "not one of the Hub's identifiers"),
        ({"language": ["English"]}, "not ISO 639 codes"),
        ({"configs": {"corrections": ""}}, "needs a name and its files"),
    ],
)
def test_what_the_hub_would_refuse_is_refused_here(sample, changes, said):
    with pytest.raises(ConfigError, match=said):
        a_dataset_card(sample, **changes)


def test_a_card_without_front_matter_is_refused():
    with pytest.raises(ConfigError, match="does not begin with YAML"):
        check_card("# A card\n")


def test_text_cannot_leave_the_front_matter_or_its_cell(sample):
    hostile = 'a: "b"\n---\n# x | <script> [y](javascript:z)'
    text = a_dataset_card(dataclasses.replace(sample, notes=(hostile,)), name=hostile)
    assert check_card(text)["pretty_name"] == hostile
    assert "\\<script\\>" in text
    assert "<script>" not in text.split("\n---\n", 1)[1].replace("\\<script\\>", "")

"""Corrections as JSON: the same record as from the text form, the text as the fall-back, hostile objects as reasons."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.corrections import parse_correction, render_correction
from lema_core.corrections.parsing import Fault, ParsedCorrection
from lema_core.corrections.structured import parse_structured, render_structured, response_format, structured_prompt
from lema_core.pipeline import Pipeline
from lema_core.prompts import load, names
from lema_core.questions import TASKS
from lema_core.run.files import read_run_file
from lema_core.stages.corrections import Corrections

GOOD = {
    "step": 2,
    "explanation": "It adds 3 and 4 to 8.",
    "corrected_steps": ["3 + 4 = 7."],
    "answer_line": "The answer is 7.",
}
WORDS = st.text("abc 123+=", min_size=1, max_size=20).filter(lambda text: text.strip())


@pytest.mark.parametrize("name", names())
def test_every_example_is_the_same_correction_in_both_forms(name):
    shape = next(task.shape for task in TASKS.values() if task.prompts == name)
    for example in load(name).correction.examples:
        text = parse_correction(example.correction, shape)
        structured = parse_structured(render_structured(example.correction, shape), shape)
        assert isinstance(text, ParsedCorrection)
        assert (structured.step, structured.explanation, structured.steps, structured.answer_line) == (
            text.step, text.explanation, text.steps, text.answer_line,
        )  # fmt: skip


@given(st.integers(1, 9), WORDS, st.lists(WORDS, min_size=1, max_size=4), st.integers(0, 999))
def test_what_is_written_as_text_is_read_alike_as_json(step, explanation, steps, answer):
    text = render_correction(step, explanation, steps, f"The answer is {answer}.")
    one, other = parse_correction(text), parse_structured(render_structured(text, "steps"))
    if isinstance(one, ParsedCorrection):
        assert (other.step, other.explanation, other.steps, other.answer_line) == (
            one.step, one.explanation, one.steps, one.answer_line,
        )  # fmt: skip


def test_an_answer_in_the_text_form_is_read_as_text():
    text = render_correction(2, "It adds 3 and 4 to 8.", ["3 + 4 = 7."], "The answer is 7.")
    assert parse_structured(text) == parse_correction(text)
    assert parse_structured("no idea") == parse_correction("no idea")


def test_headings_within_a_field_are_no_headings():
    found = parse_structured(
        json.dumps(GOOD | {"explanation": "Wrong.\nCorrect Solution: none.\nExplanation: odd sum."})
    )
    assert found.explanation == "Wrong. Correct Solution: none. Explanation: odd sum."
    assert found.steps == ("3 + 4 = 7.",)


@pytest.mark.parametrize("step", [2, "2", "Step 2.", 2.0])
def test_a_step_may_be_written_in_several_ways(step):
    assert parse_structured(f"```json\n{json.dumps(GOOD | {'step': step})}\n```").step == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"step": None}, "step_missing"), ({"step": True}, "step_missing"), ({"step": 2.5}, "step_missing"),
        ({"step": "second"}, "step_missing"), ({"step": "9" * 5000}, "step_missing"), ({"step": 1e300}, "step_missing"),
        ({"corrected_steps": "3 + 4 = 7."}, "unparsable"), ({"corrected_steps": [1]}, "unparsable"),
        ({"corrected_steps": ["x"] * 201}, "unparsable"), ({"corrected_steps": []}, "unparsable"),
        ({"corrected_steps": ["..."]}, "unparsable"), ({"explanation": {}}, "unparsable"),
        ({"answer_line": 7}, "unparsable"),
    ],
)  # fmt: skip
def test_an_object_of_another_form_is_a_reason(change, reason):
    found = parse_structured(json.dumps(GOOD | change))
    assert isinstance(found, Fault)
    assert found.reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "{" * 100_000,
        '{"step": ' * 20_000,
        '{"step": 1' + "0" * 5000 + "}",
        "{}",
        '{"a": 1}',
        "[1]",
        '{"step": 2',
        "{\ud800",
    ],
    ids=range(8),
)
def test_what_is_no_such_object_goes_to_the_text_parser(text):
    assert parse_structured(text) == parse_correction(text)


def test_a_missing_field_is_named():
    found = parse_structured(json.dumps({"step": 2, "explanation": "x"}))
    assert found.reason == "unparsable"
    assert "corrected_steps is missing" in found.detail


def test_the_fixed_part_of_the_chat_comes_first():
    one = structured_prompt("gsm8k", "How many?", "Step 1: 1.\nThe answer is 1.")
    other = structured_prompt("gsm8k", "And now?", "Step 1: 2.\nThe answer is 2.")
    assert one[:-1] == other[:-1]
    assert "How many?" in one[-1]["content"]
    assert "one JSON object" in one[0]["content"]
    for shape in ("steps", "choice", "whole"):
        schema = response_format(shape)["json_schema"]["schema"]
        assert schema["required"] == [*schema["properties"]]


def test_the_text_form_names_nothing_anew(tmp_path):
    from support import RUN

    file = tmp_path / "run.toml"
    file.write_text(RUN.replace("{url}", "http://127.0.0.1:1/v1"))

    def ref(*settings):
        stages = Pipeline(read_run_file(file, settings), str(tmp_path / "out")).stages()
        return next(stage.ref for stage in stages if isinstance(stage, Corrections))

    assert ref() == ref("corrections.format='text'") != ref("corrections.format='json_schema'")

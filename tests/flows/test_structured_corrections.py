"""Structured corrections in whole runs: the rows of the text form, from endpoints that take, ignore or refuse them."""

import json

import pytest
from support import of_stage

from lema_core.artifacts import Store
from lema_core.llm.simulated import Reply
from lema_core.records import Correction

pytestmark = pytest.mark.slow
JSON = ("--set", "corrections.format=json_schema", "--set", "mixture.arms=['lema']", "--set", "questions.limit=12")


def corrections(lema, run_file, tmp_path, root, *settings) -> dict[str, Correction]:
    lema("run", run_file, "--root", root, *settings)
    store = Store(str(tmp_path / root / "store"))
    (ref,) = of_stage(store, "corrections")
    return {row.id: row for row in store.rows(ref, Correction)}


def test_both_forms_give_the_same_corrections(lema, run_file, simulated, tmp_path) -> None:
    asked = []

    def note(request):
        if request.body["model"] == "reference-corrector":
            asked.append(request.body)

    simulated.respond = note
    text = corrections(lema, run_file, tmp_path, "text", *JSON[2:])
    assert not any("response_format" in body for body in asked)
    asked.clear()
    structured = corrections(lema, run_file, tmp_path, "json", *JSON)
    assert text
    assert all(body["response_format"]["type"] == "json_schema" for body in asked)
    # The ids are made from step, explanation and solution.
    assert structured.keys() == text.keys()
    for name, row in structured.items():
        other = text[name]
        assert (row.step, row.explanation, row.spliced) == (other.step, other.explanation, other.spliced)
        assert row.request_key != other.request_key

    def refuse(request):
        if "response_format" in request.body:
            said = "Unsupported parameter: 'response_format' is not supported with this model."
            error = {"message": said, "param": "response_format", "code": "unsupported_parameter"}
            return Reply(400, {"error": error | {"type": "invalid_request_error"}})
        return None

    simulated.respond = refuse
    assert corrections(lema, run_file, tmp_path, "refused", *JSON).keys() == text.keys(), json.dumps(asked[:1])[:500]

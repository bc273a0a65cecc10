"""Examples for other trainers: what another program reads is what ours trains on."""

import json
from pathlib import Path

import pytest
from support import kept

from lema_core.artifacts import ArtifactRef, Identity, Store
from lema_core.errors import ArtifactError, ConfigError
from lema_core.exporting import export, export_model, write_card
from lema_core.records import Example
from lema_core.report import ReportData
from lema_core.report.cards import run_dataset_card
from lema_core.run.artifacts import RunArtifacts
from lema_core.run.spec import RunSpec

PAIR = Example(
    id="e1", kind="preference", source_id="c1", question_id="q1", input="Question: 2 + 3 + 4?",
    prefix="Step 1: 2 + 3 = 5.\n", output="Step 2: 5 + 4 = 9.\n", worse="Step 2: 5 + 4 = 10.\n",
)  # fmt: skip
PLAIN = Example(id="e2", kind="cot", source_id="p1", question_id="q1", input="Question?", output="Step 1: 9.", weight=2)


def exported(tmp_path: Path, arm: str, row: Example, form: str = "trl") -> dict:
    store = Store(str(tmp_path / "store"))
    made = RunArtifacts(mixtures={arm: kept(store, "mixture", [row], Example)})
    assert export(store, made, [], form, tmp_path) == {f"{arm}.jsonl": 1}
    return json.loads((tmp_path / f"{arm}.jsonl").read_text())


def test_a_preference_pair_has_both_sides_and_the_steps_before_them(tmp_path):
    line = exported(tmp_path, "step_dpo", PAIR)
    assert line["prompt"] == [{"role": "user", "content": PAIR.input}]
    assert line["chosen"] == [{"role": "assistant", "content": "Step 1: 2 + 3 = 5.\nStep 2: 5 + 4 = 9.\n"}]
    assert line["rejected"] == [{"role": "assistant", "content": "Step 1: 2 + 3 = 5.\nStep 2: 5 + 4 = 10.\n"}]
    assert (line["prefix"], line["id"], "messages" in line) == (PAIR.prefix, "e1", False)


def test_any_other_example_has_a_prompt_and_a_completion(tmp_path):
    line = exported(tmp_path, "cot", PLAIN)
    assert line["prompt"] == [{"role": "user", "content": PLAIN.input}]
    assert line["completion"] == [{"role": "assistant", "content": PLAIN.output}]
    assert (line["weight"], line["id"], "messages" in line) == (2, "e2", False)


def test_as_a_chat_it_has_messages(tmp_path):
    line = exported(tmp_path, "cot", PLAIN, "chat")
    assert [(turn["role"], turn["content"]) for turn in line["messages"]] == [
        ("user", PLAIN.input), ("assistant", PLAIN.output),
    ]  # fmt: skip
    assert (line["weight"], "prompt" in line) == (2, False)


def test_the_card_tells_pairs_from_chats():
    run = RunSpec.model_validate(
        {"name": "r", "questions": {"task": "gsm8k", "path": "q"}, "mixture": {"arms": ["cot", "step_dpo"]}}
    )
    data = ReportData(title="t", task="gsm8k", students=("s",), corrector="c")
    chat = run_dataset_card(run, data, {"cot.jsonl": 3, "step_dpo.jsonl": 2})
    assert "- cot.jsonl: an example a line. `prompt`" in chat
    assert "- step\\_dpo.jsonl: a preference pair a line" in chat
    assert "| `spliced` |" not in chat
    tables = run_dataset_card(run, data, {"cot.parquet": 3, "corrections.parquet": 2})
    assert "| `spliced` |" in tables
    assert "a line" not in tables


@pytest.mark.parametrize("text", ["# My project\n", "", "\ufffd"])
def test_a_card_of_someone_else_is_not_overwritten(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ConfigError, match="was not written by"):
        write_card(tmp_path, "# Data")
    assert (tmp_path / "README.md").read_text() == text


def test_our_own_card_is_replaced(tmp_path):
    write_card(tmp_path, "# Data")
    write_card(tmp_path, "# More data")
    assert (tmp_path / "README.md").read_text().startswith("# More data\n")
    (tmp_path / "README.md").write_text("# From mistakes and corrections (LeMa), an older version's\n")
    write_card(tmp_path, "# Data")


def test_only_what_the_manifest_names_is_part_of_a_model(tmp_path):
    store, identity = Store(str(tmp_path / "store")), Identity("training", {})
    ref = ArtifactRef("training", identity.fingerprint)
    folder = store.local_folder(ref) / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", ".env", "README.md", "notes.txt"):
        (folder / name).write_text(name)
    files = ["model/config.json", "model/model.safetensors", "model/README.md", "log.txt"]
    store.publish_files(identity, files, seconds=0)
    made = RunArtifacts(models={"lema": ref})
    assert [*export_model(store, made, "lema", tmp_path / "out")] == ["config.json", "model.safetensors"]
    (folder / "config.json").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        export_model(store, made, "lema", tmp_path / "again")

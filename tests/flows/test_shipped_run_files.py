"""``lema plan`` on every run file that is shipped, from local questions and without network."""

import json
import re
from pathlib import Path

import pytest
from chaos.simulated_run import run_file_text, simulated_run
from jinja2.sandbox import ImmutableSandboxedEnvironment
from support import local_sources

from flows.deployed import corrections_of
from lema_core.prompts import load, path_input, path_prompt
from lema_core.prompts.sets import THINK
from lema_core.run.files import read_run_file
from lema_core.run.plan import planned_stages

pytest.importorskip("deepspeed", reason="training is not installed (lema-pipeline[train])")
RUNS = Path(__file__).resolve().parents[2] / "deployments" / "runs"
FILES = sorted(RUNS.glob("*.toml"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    texts = [(f"Tom has {i} apples and buys {j} more. How many?", i + j) for i in range(25) for j in range(9)]
    solved = [(text, f"He has {total} apples.\n#### {total}") for text, total in texts]
    file.write_text(
        "".join(json.dumps({"question": q, "answer": a, "ground_truth": a}) + "\n" for q, a in solved), encoding="utf-8"
    )
    return file


def outlooks(run_file: Path, questions: Path, root: Path) -> dict[str, str]:
    local = local_sources(read_run_file(run_file), questions)
    run = read_run_file(run_file, local).model_copy(update={"ablation": None})
    stages = list(planned_stages(run, str(root)))
    assert {stage.there for stage in stages} == {False}
    return {stage.name: stage.estimate(0.4) for stage in stages if stage.estimate}


@pytest.mark.parametrize("run_file", FILES, ids=lambda path: path.stem)
def test_a_shipped_run_file_can_be_planned(run_file: Path, questions: Path, tmp_path: Path) -> None:
    run = read_run_file(run_file)
    models = len(run.mixture.arms) if run.training and run.mixture else 0
    # From the second round of evolution on the student is a model that was fine-tuned in the round before.
    rounds = run.evolution.rounds - 1 if run.evolution else 0
    assert len(outlooks(run_file, questions, tmp_path)) == models + rounds + (run.pretraining is not None)


@pytest.mark.parametrize("name", ["qlora", "full"])
def test_a_base_model_reads_the_four_examples_as_text_with_borders(name: str) -> None:
    command = read_run_file(RUNS / f"llama2_70b_{name}.toml").endpoints["student"].command
    assert command
    # As transformers and vLLM compile it; vLLM reads escapes before it does.
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
        command[command.index("--chat-template") + 1].encode().decode("unicode_escape")
    )
    text = template.render(
        messages=path_prompt("gsm8k", "How many?", shots=4), bos_token="<s>", add_generation_prompt=True
    )
    instruction = load("gsm8k").path.instruction
    assert text.startswith(f"<s>{instruction}")
    assert text.endswith(f"\n\n{path_input('gsm8k', 'How many?')}\n")
    assert text.count("<s>") == 1
    assert text.count(f"{THINK}\nStep 1:") == 4
    assert len(re.findall(rf"\nThe answer is .*\.\n\n{re.escape(instruction)}\n", text)) == 4


@pytest.mark.parametrize(
    ("name", "devices", "memory", "steps"),
    # 225 rationales, at most 900 right paths and 900 corrections, three times over in batches of 128.
    [("qlora", 4, (35, 60), 2000), ("full", 64, (20, 40), 48)],
)
def test_the_papers_largest_runs_fit_and_say_how_long_they_take(
    name: str, devices: int, memory: tuple[int, int], steps: int, questions: Path, tmp_path: Path
) -> None:
    told = outlooks(RUNS / f"llama2_70b_{name}.toml", questions, tmp_path)["training: lema"]
    assert f"{devices} devices" in told
    assert "68.98B parameters" in told
    found = re.search(r"([\d.]+) GiB a device.* (\d+) steps.* [\d.]+ h at 40% MFU", told)
    assert found, told
    assert memory[0] < float(found[1]) < memory[1]
    assert int(found[2]) == steps


def test_a_model_of_unknown_size_is_said_and_stops_nothing(questions: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    text = (RUNS / "llama2_70b_qlora.toml").read_text(encoding="utf-8")
    own.write_text(text.replace('base = "meta-llama/Llama-2-70b-hf"', 'base = "somebody/unheard-of"'), encoding="utf-8")
    told = outlooks(own, questions, tmp_path / "root")["training: lema"]
    assert "not estimated: the size of 'somebody/unheard-of' is not known" in told


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_parts_are_run_files_too(path: Path, tmp_path: Path) -> None:
    run = read_run_file(path)
    made = [simulated_run(run, "http://127.0.0.1:9/v1", with_training=on) for on in (False, True)]
    made += [corrections_of(run)] if run.corrections else []
    for number, part in enumerate(made):
        (tmp_path / f"{number}.toml").write_text(run_file_text(part), encoding="utf-8")
        assert read_run_file(tmp_path / f"{number}.toml") == part

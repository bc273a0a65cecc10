"""Every checkpoint of a run as a plain model: kept while the run goes on, adapters merged, the chosen one in place."""

import os
from pathlib import Path

import pytest

from lema_core.errors import TrainingError
from lema_core.training import LaunchSpec, TrainingSpec, run_training
from lema_core.training.candidates import Candidates, place_model, whole_checkpoints
from lema_core.training.checkpoints import (
    MARKER,
    check_continues,
    complete_checkpoints,
    delete_incomplete,
    delete_old,
    delete_optimiser_states,
    kept_weights,
    mark_complete,
)


def checkpoint(out: Path, step: int) -> None:
    folder = out / f"checkpoint-{step}"
    (folder / "global_step").mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "trainer_state.json", "rng_state_0.pth", MARKER):
        (folder / name).write_text(f"{name} {step}")


def test_spared_weights_stay_when_their_checkpoint_is_dropped(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        checkpoint(tmp_path, step)
        delete_old(tmp_path, 2, spare_weights=True)
    assert sorted(kept_weights(tmp_path)) == [5, 10, 15]
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-15"]
    assert sorted(path.name for path in (tmp_path / "weights-5").iterdir()) == ["config.json", "model.safetensors"]
    assert delete_incomplete(tmp_path) == []


def test_a_finished_runs_checkpoints_are_served_without_deepspeeds_programs(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5)
    (tmp_path / "checkpoint-5" / "zero_to_fp32.py").write_text("import torch")
    delete_optimiser_states(tmp_path)
    (folder,) = kept_weights(tmp_path).values()
    assert not [*folder.rglob("*.py")], "the embedded server refuses a checkpoint with code"
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "global_step").exists()


def test_states_are_read_by_as_many_ranks_as_wrote_them(tmp_path: Path) -> None:
    check_continues(tmp_path, 2, 2)
    for step, ranks in ((5, 8), (10, 2)):
        checkpoint(tmp_path, step)
        mark_complete(tmp_path / f"checkpoint-{step}", ranks, 2)
    check_continues(tmp_path, 2, 2)
    for now in ((1, 2), (8, 2), (2, 3)):
        with pytest.raises(TrainingError, match=r"checkpoint-10 was written by 2 ranks under ZeRO 2.*2 ranks in all"):
            check_continues(tmp_path, *now)
    mark_complete(tmp_path / "checkpoint-10", 2, 0)
    check_continues(tmp_path, 1, 0)
    with pytest.raises(TrainingError, match=r"launch\.zero_stage = 0"):
        check_continues(tmp_path, 2, 2)
    (tmp_path / "checkpoint-10" / MARKER).write_text("")
    check_continues(tmp_path, 1, 3)


def test_a_model_is_placed_without_the_states_of_its_training(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "left-by-a-kill").touch()
    place_model(tmp_path / "checkpoint-5", tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_candidates_come_back_as_they_were_written(tmp_path: Path) -> None:
    assert Candidates.read(tmp_path) is None
    made = Candidates(tmp_path, {10: tmp_path / "weights-10"}, {"ranks": 2}, 1.5)
    made.write()
    assert Candidates.read(tmp_path) == made


@pytest.mark.slow
@pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="a minute: set LEMA_ALL_TESTS=1")
@pytest.mark.parametrize("method", ["full", "lora"])
async def test_every_checkpoint_is_a_plain_model_and_the_last_is_the_runs_own(
    tiny_base: str, mixture: Path, tmp_path: Path, method: str
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    fields = {"max_steps": 4, "save_steps": 1, "batch_size": 8, "learning_rate": 5e-3, "precision": "fp32"}
    spec = TrainingSpec(base=tiny_base, method=method, adapter={"rank": 4, "dropout": 0.0}, **fields)
    launch = LaunchSpec(ranks=1, threads=1, keep_weights=True)
    result = await run_training(spec, launch, mixture, tmp_path)
    events: list[dict[str, object]] = []
    weights = await whole_checkpoints(spec, launch, tmp_path, events.append, logs=tmp_path)
    assert list(weights) == [1, 2, 3, 4]
    ids = AutoTokenizer.from_pretrained(weights[1]).apply_chat_template(
        [{"role": "user", "content": "3 + 4?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        said = [AutoModelForCausalLM.from_pretrained(folder)(ids).logits.float() for folder in weights.values()]
    assert all(not torch.equal(said[0], other) for other in said[1:]), "each step has weights of its own"
    last, model = load_file(weights[4] / "model.safetensors"), load_file(result.model / "model.safetensors")
    assert all(torch.equal(tensor, last[name].to(tensor.dtype)) for name, tensor in model.items())
    # What is merged is not merged again.
    events.clear()
    assert await whole_checkpoints(spec, launch, tmp_path, events.append, logs=tmp_path) == weights
    assert not events

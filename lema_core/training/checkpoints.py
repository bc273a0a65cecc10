"""Checkpoints are complete or absent: a marker file is written last, and a folder without it is ignored.

The marker holds how the states are sharded: under ZeRO, DeepSpeed reads them with the same sharding only.
"""

import json
import re
import shutil
from pathlib import Path

from lema_core.artifacts.files import atomic_local
from lema_core.errors import TrainingError

MARKER = "COMPLETE"
STATES = (
    "global_step*", "rng_state*", "optimizer*", "scheduler.pt", "trainer_state.json", "training_args.bin", "latest",
    "zero_to_*.py", MARKER,
)  # fmt: skip
"""What a checkpoint's folder holds beside its weights, needed only to continue the run."""
_NAME = re.compile(r"(?:checkpoint|weights)-(\d+)")


def mark_complete(folder: Path, ranks: int, zero_stage: int) -> None:
    """Mark a checkpoint complete, after all ``ranks`` ranks have written their parts."""
    with atomic_local(folder / MARKER) as local:
        local.write_text(json.dumps({"ranks": ranks, "zero_stage": zero_stage}))


def complete_checkpoints(out: Path) -> list[Path]:
    """Return the complete checkpoints in ``out``, the newest last."""
    return sorted((p for p in _folders(out) if (p / MARKER).is_file()), key=step_of)


def check_continues(out: Path, ranks: int, zero_stage: int) -> None:
    """Refuse to continue from a checkpoint whose states are sharded in another way; ZeRO 0 does not shard them.

    Raises:
        TrainingError: the newest complete checkpoint was written by another number of ranks, or under another stage.
    """
    for newest in complete_checkpoints(out)[-1:]:
        written = json.loads((newest / MARKER).read_text() or "{}")
        whole = written.get("zero_stage") == zero_stage == 0
        if written and not whole and written != {"ranks": ranks, "zero_stage": zero_stage}:
            raise TrainingError(
                f"{newest} was written by {written['ranks']} ranks under ZeRO {written['zero_stage']}, but now there "
                f"are {ranks} ranks under ZeRO {zero_stage}, which cannot read its states. Run it with "
                f"{written['ranks']} ranks in all (launch.ranks on each of launch.nodes; by default one per GPU) and "
                f"launch.zero_stage = {written['zero_stage']}, or delete the checkpoints in {out} to start over"
            )


def step_of(folder: Path) -> int:
    """Return the optimiser step of a checkpoint's folder."""
    found = _NAME.fullmatch(folder.name)
    return int(found.group(1)) if found else -1


def delete_incomplete(out: Path) -> list[str]:
    """Delete incomplete checkpoints, which a kill left, and return their names."""
    incomplete = [p for p in _folders(out) if not (p / MARKER).is_file()]
    for folder in incomplete:
        shutil.rmtree(folder)
    return sorted(p.name for p in incomplete)


def delete_old(out: Path, keep: int, *, spare_weights: bool = False) -> None:
    """Delete all but the newest ``keep`` complete checkpoints, each marker first; the weights may stay.

    Spared weights move to ``weights-<step>``, where no continuation looks for state.
    """
    for folder in complete_checkpoints(out)[:-keep]:
        if spare_weights:
            delete_states(folder.rename(out / f"weights-{step_of(folder)}"))
            continue
        (folder / MARKER).unlink()
        shutil.rmtree(folder)


def delete_states(folder: Path) -> None:
    """Delete everything in a checkpoint's folder but its weights, configuration and tokenizer."""
    for state in (found for pattern in STATES for found in folder.glob(pattern)):
        shutil.rmtree(state) if state.is_dir() else state.unlink()


def kept_weights(out: Path) -> dict[int, Path]:
    """Return the folder of every checkpoint whose weights the run kept, by step."""
    spared = [p for p in out.glob("weights-*") if _NAME.fullmatch(p.name)]
    return {step_of(folder): folder for folder in sorted([*spared, *complete_checkpoints(out)], key=step_of)}


def delete_optimiser_states(out: Path) -> None:
    """Delete optimiser states once the run is finished; the checkpoints' weights stay."""
    for folder in complete_checkpoints(out):
        for state in folder.glob("global_step*"):
            shutil.rmtree(state)
        # DeepSpeed's programs to merge them. The embedded server refuses a checkpoint with Python files.
        for program in folder.glob("zero_to_*.py"):
            program.unlink()


def _folders(out: Path) -> list[Path]:
    return [p for p in out.glob("checkpoint-*") if p.is_dir() and _NAME.fullmatch(p.name)]

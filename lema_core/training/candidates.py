"""The checkpoints of a finished run as plain models, to choose among them, and the chosen one put in its place.

``python -m lema_core.training.candidates --spec S --out DIR`` merges the adapters that a run kept into the base model.
``DIR`` is the output folder of ``lema_core.training.sft`` with ``keep_weights``. Each ``DIR/merged-<step>`` is complete
or missing; an existing one stays as it is.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lema_core.artifacts.files import atomic_folder, atomic_local
from lema_core.system.stopping import end_process
from lema_core.training.checkpoints import STATES, kept_weights
from lema_core.training.launch import OnEvent, clean_environment, run_group
from lema_core.training.program import emit, run_program
from lema_core.training.specs import LaunchSpec, TrainingSpec, load_specs

RUN_FOLDER = "run"
"""In the folder of a model that is still to be chosen: what the training program works in. Goes when it is chosen."""
_FILE = "candidates.json"


@dataclass(frozen=True, slots=True)
class Candidates:
    """A finished training run whose model is still to be chosen."""

    folder: Path
    """Holds ``metrics.parquet`` and ``spec.json`` too."""
    weights: dict[int, Path]
    """By step, a plain model for ``from_pretrained``."""
    start: dict[str, Any]
    """The run's ``start`` event."""
    seconds: float
    """How long it trained, in the process that finished it."""

    def write(self) -> None:
        """Declare the run finished: from now on it is read and not run again."""
        weights = {step: str(folder.relative_to(self.folder)) for step, folder in self.weights.items()}
        with atomic_local(self.folder / _FILE) as local:
            local.write_text(json.dumps({"weights": weights, "start": self.start, "seconds": self.seconds}))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the finished run in a folder, None where there is none."""
        if not (folder / _FILE).is_file():
            return None
        raw = json.loads((folder / _FILE).read_text())
        weights = {int(step): folder / name for step, name in raw["weights"].items()}
        return cls(folder, weights, raw["start"], raw["seconds"])


async def whole_checkpoints(
    spec: TrainingSpec, launch: LaunchSpec, out: Path, on_event: OnEvent, *, logs: Path
) -> dict[int, Path]:
    """Return by step a folder for ``from_pretrained`` of every checkpoint that a run with ``keep_weights`` left.

    Adapters are merged into the base model, once, in a process of its own: the memory goes back before a server starts.
    Its output goes to ``log.txt`` in ``logs``.

    Raises:
        TrainingError: an adapter could not be merged; the next call goes on with the ones that are missing.
    """
    kept = kept_weights(out)
    if spec.method == "full":
        return kept
    command = [
        sys.executable,
        "-m",
        "lema_core.training.candidates",
        "--spec",
        str(out / "spec.json"),
        "--out",
        str(out),
    ]
    await run_group(command, logs / "log.txt", clean_environment(os.environ, launch), on_event)
    return {step: merged_folder(out, step) for step in kept}


def merged_folder(out: Path, step: int) -> Path:
    """Return the folder of a checkpoint whose adapter is merged into the base model."""
    return out / f"merged-{step}"


def place_model(weights: Path, target: Path) -> None:
    """Put a plain model at ``target``, whole or not at all, without a second copy where the disk knows hard links."""
    with atomic_folder(target) as part:
        shutil.copytree(weights, part, copy_function=_link, ignore=shutil.ignore_patterns(*STATES), dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def merge_kept(spec: TrainingSpec, out: Path) -> None:
    """Merge every kept adapter that is not merged yet."""
    missing = {step: folder for step, folder in kept_weights(out).items() if not merged_folder(out, step).is_dir()}
    if not missing:
        return
    from lema_core.training.data import load_tokenizer
    from lema_core.training.models import checkpoint_of, load_model, merge_adapter, save_stop, trains_in_bf16

    base = checkpoint_of(spec.base)
    quantised = load_model(base, spec, "sdpa", trains_in_bf16(spec)) if spec.method == "qlora" else None
    for step, adapter in missing.items():
        with atomic_folder(merged_folder(out, step)) as part:
            merge_adapter(base, adapter, part, quantised)
            # The checkpoint's own tokenizer: it carries the chat template of the training.
            tokenizer = load_tokenizer(str(adapter))
            tokenizer.save_pretrained(part)
            save_stop(part, tokenizer.eos_token_id)
        emit("merged", step=step)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; a known failure ends with an ``error`` event and status 3."""
    parser = argparse.ArgumentParser(prog="python -m lema_core.training.candidates", description=(__doc__ or "")[:200])
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    return run_program(lambda: merge_kept(load_specs(given.spec.read_text())[0], given.out), given.out)


if __name__ == "__main__":
    end_process(main())

"""Merge the adapters that a run kept into the base model: ``python -m lema_core.training.merging --spec S --out DIR``.

``DIR`` is the output folder of ``lema_core.training.sft`` with ``keep_weights``. Each ``DIR/merged-<step>`` is there
whole or not at all; those that are there are left alone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lema_core.artifacts.files import atomic_folder
from lema_core.training.candidates import merged_folder
from lema_core.training.checkpoints import kept_weights
from lema_core.training.events import emit
from lema_core.training.program import carried_out
from lema_core.training.specs import TrainingSpec, load_specs


def merge_kept(spec: TrainingSpec, out: Path) -> None:
    """Merge every kept adapter that is not merged yet."""
    from lema_core.training.embedded_weights import checkpoint_of

    base = checkpoint_of(spec.base)
    for step, adapter in kept_weights(out).items():
        if not merged_folder(out, step).is_dir():
            _merge(base, adapter, merged_folder(out, step))
            emit("merged", step=step)


def _merge(base: str, adapter: Path, target: Path) -> None:
    from lema_core.training.data import load_tokenizer
    from lema_core.training.models import merge_adapter

    with atomic_folder(target) as part:
        merge_adapter(base, adapter, part)
        # The checkpoint's own tokenizer: it carries the chat template of the training.
        load_tokenizer(str(adapter)).save_pretrained(part)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; a known failure ends with an ``error`` event and status 3."""
    parser = argparse.ArgumentParser(prog="python -m lema_core.training.merging", description=(__doc__ or "")[:200])
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    return carried_out(lambda: merge_kept(load_specs(given.spec.read_text())[0], given.out), given.out)


if __name__ == "__main__":
    sys.exit(main())

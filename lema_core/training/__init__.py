"""Supervised fine-tuning on a mixture: a frozen spec and tokenised examples in, a whole checkpoint and metrics out.

``run_tokenising`` and ``run_on_tokens`` (in ``launch``) are what the tasks call, ``run_training`` is both: they start
``lema_core.training.data`` and, by ``torchrun``, ``lema_core.training.sft`` in process groups of their own. This
package imports torch only inside its functions, so specs can be read without it.
"""

from lema_core.training.launch import TrainingResult, run_on_tokens, run_tokenising, run_training
from lema_core.training.specs import METRICS_FILE, MODEL_FOLDER, SPEC_FILE, LaunchSpec, TrainingSpec

__all__ = [
    "METRICS_FILE",
    "MODEL_FOLDER",
    "SPEC_FILE",
    "LaunchSpec",
    "TrainingResult",
    "TrainingSpec",
    "run_on_tokens",
    "run_tokenising",
    "run_training",
]

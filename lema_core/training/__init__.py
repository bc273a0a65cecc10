"""Supervised fine-tuning on a mixture: a frozen spec and tokenised examples in, a whole checkpoint and metrics out.

``run_training`` (in ``launch``) is what a task calls: it starts ``torchrun`` on ``lema_core.training.sft`` in a process
group of its own. This package imports torch only inside its functions, so specs can be read without it.
"""

from lema_core.training.launch import TrainingResult, run_training
from lema_core.training.specs import LaunchSpec, TrainingSpec

__all__ = ["LaunchSpec", "TrainingResult", "TrainingSpec", "run_training"]

"""Held-out questions: accuracy, maj@k, seeds, statistics, the choice of a checkpoint."""

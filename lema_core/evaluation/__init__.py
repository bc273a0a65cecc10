"""Held-out questions: accuracy, votes, seeds, statistics, the choice of a checkpoint."""

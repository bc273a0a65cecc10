"""The human rating of a pilot of corrections, and the quality gate."""

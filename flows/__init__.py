"""Prefect flows, in the paper's order, and the command line."""

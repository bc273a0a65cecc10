"""Prefect tasks, one module a stage: open artifacts, call lema_core, publish an artifact, return a reference."""

"""Registering deployments and automations on a Prefect server."""

"""The local stack: PostgreSQL, the Prefect server, deployments and a worker on this machine."""

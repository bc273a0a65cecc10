"""``python -m flows.cli``: the command line without an installed ``lema``."""

from flows.cli import app

app()

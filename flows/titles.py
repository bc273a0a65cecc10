"""What a run is called in the Prefect UI: its name, its task, who is taught and who corrects."""

from pathlib import Path

from lema_core.run.spec import RunSpec


def title_of(run: RunSpec) -> str:
    """Return a flow run's name, as ``gsm8k_openai: gsm8k, Qwen2.5-1.5B-Instruct taught by gpt-4.1``."""
    students = ", ".join(dict.fromkeys(_short(run, student.endpoint) for student in run.students))
    teacher = f"taught by {_short(run, run.corrections.endpoint)}" if run.corrections else ""
    return " ".join(filter(None, (f"{run.name}: {run.questions.task}{', ' if students else ''}{students}", teacher)))


def _short(run: RunSpec, endpoint: str) -> str:
    """Return a model's name without its owner or folder."""
    return Path(run.endpoints[endpoint].model).name

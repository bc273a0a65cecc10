"""Tasks for a user's own file: name the answer family, map the fields, done."""

from lema_core.questions.tasks.task import Task

NUMERIC = Task(name="numeric", family="numeric", prompts="gsm8k")
LATEX = Task(name="latex", family="latex", prompts="math")
CHOICE = Task(name="choice", family="choice", shape="choice", prompts="csqa")
TEXT = Task(name="text", family="text", prompts="gsm8k")

"""Final answers: extract them, compare them, vote over them; and check a step's arithmetic. (stub docstring)"""

from lema_core.answers.arithmetic import FalseEquation, false_equations

__all__ = ["FalseEquation", "false_equations"]

"""False equations in a reasoning step: checked exactly, and only where every reading of them is false."""

from lema_core.step_checker.check import FalseEquation, false_equations

__all__ = ["FalseEquation", "false_equations"]

"""Chaos: a run file's flow under everything that goes wrong, against an endpoint that counts what is paid.

The simulated endpoint, in this process, replaces the run's endpoints. The flow runs once undisturbed and then once per
scenario, each in a root of its own and as users start it: ``lema run`` in a process of its own. A scenario holds if the
same command, repeated after each disturbance, finishes with the Parquet parts and the completions of the undisturbed
run, byte by byte, and paid twice for no more than what was in flight when it was stopped.
"""

from chaos.checks import ScenarioResult, check_scenario
from chaos.harness import Harness
from chaos.scenario_run import ScenarioRun
from chaos.scenarios import SCENARIOS, Scenario, choose_scenarios

__all__ = ["SCENARIOS", "Harness", "Scenario", "ScenarioResult", "ScenarioRun", "check_scenario", "choose_scenarios"]

"""Chaos: a run file's flow under everything that goes wrong, against an endpoint that counts what is paid.

Contract: the run's endpoints are replaced by the simulated endpoint, in this process. The flow runs once undisturbed
and then once a scenario, each in a root of its own and as users start it: ``lema run`` in a process of its own. A
scenario holds if the same command, repeated after whatever was done to it, finishes with the Parquet parts and the
completions of the undisturbed run, byte by byte, having paid twice at most what was in flight when it was stopped.
"""

from flows.chaos.arena import Arena
from flows.chaos.bout import Bout
from flows.chaos.judging import Verdict, judged
from flows.chaos.scenarios import SCENARIOS, Scenario, chosen

__all__ = ["SCENARIOS", "Arena", "Bout", "Scenario", "Verdict", "chosen", "judged"]

"""Registers or serves what ``deployments/prefect.yaml`` describes, which Prefect's own command reads too."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import TriggerTypes
from prefect.events.schemas.deployment_triggers import DeploymentTriggerTypes
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.schedules import Schedule
from pydantic import TypeAdapter

from lema_core.errors import ConfigError

_TRIGGER: TypeAdapter[DeploymentTriggerTypes] = TypeAdapter(DeploymentTriggerTypes)
PREFECT_FILE = Path("deployments") / "prefect.yaml"
TAG = "lema"
"""What tells our deployments from other projects' on the same server."""


def described() -> list[dict[str, Any]]:
    """Return the deployments of the file.

    Raises:
        ConfigError: the present folder is no checkout.
    """
    if not PREFECT_FILE.is_file():
        raise ConfigError(f"there is no {PREFECT_FILE} here: run this in the folder that LeMa was cloned into")
    found: list[dict[str, Any]] = yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))["deployments"]
    return found


def register() -> list[str]:
    """Create the work pool where it is missing and register every deployment with it; return their names.

    Raises:
        ConfigError: the present folder is no checkout, or Prefect refused; what it said is in the text.
    """
    deployments = described()
    with get_client(sync_client=True) as client:
        for pool in {one["work_pool"]["name"] for one in deployments}:
            with suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_FILE)]
    # The file takes the folder that runs work in from PWD, which only a shell keeps true.
    environment = os.environ | {"PWD": str(Path.cwd())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"Prefect did not take {PREFECT_FILE}: {(done.stderr or done.stdout)[-2000:]}")
    return [one["name"] for one in deployments]


def served() -> list[RunnerDeployment]:
    """Return the deployments for ``prefect.serve``, which needs neither a work pool nor a worker.

    One of ours that is registered with a work pool would go on waiting for a worker, and Prefect does not take it out:
    it is registered anew.
    """
    ours = [_served(one) for one in described()]
    with get_client(sync_client=True) as client:
        for one in ours:
            with suppress(ObjectNotFound):
                there = client.read_deployment_by_name(f"{one.flow_name}/{one.name}")
                if there.work_pool_name and TAG in there.tags:
                    client.delete_deployment(there.id)
    return ours


def _served(one: dict[str, Any]) -> RunnerDeployment:
    schedules = [
        Schedule(cron=schedule["cron"], active=schedule["active"], slug=schedule["slug"])
        for schedule in one.get("schedules", ())
    ]
    triggers: list[DeploymentTriggerTypes | TriggerTypes] = [
        _TRIGGER.validate_python(trigger) for trigger in one.get("triggers", ())
    ]
    return RunnerDeployment.from_entrypoint(
        one["entrypoint"], one["name"], description=one["description"], tags=one["tags"], schedules=schedules,
        concurrency_limit=ConcurrencyLimitConfig(**one["concurrency_limit"]), triggers=triggers,
    )  # fmt: skip

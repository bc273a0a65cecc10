"""Registers what ``deployments/prefect.yaml`` describes on a Prefect server, or serves it, and our automations.

The automations: a run without heartbeats has crashed, and people are notified of what went wrong. The one that resumes
what crashed belongs to the deployment ``resume`` and is described in ``deployments/prefect.yaml``.
"""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import TriggerTypes
from prefect.events.schemas.deployment_triggers import DeploymentTriggerTypes
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.schedules import Schedule
from pydantic import TypeAdapter

from flows.local_stack.server import HEARTBEAT_S
from lema_core.errors import ConfigError
from lema_core.run.bundled import bundled
from lema_core.system.processes import module_environment

_TRIGGER: TypeAdapter[DeploymentTriggerTypes] = TypeAdapter(DeploymentTriggerTypes)
TAG = "lema"
"""Distinguishes our deployments from those of other projects on the same server."""


def prefect_file() -> Path:
    """Return the file that describes the deployments: the working directory's own, else the bundled one."""
    own = Path("deployments") / "prefect.yaml"
    return own if own.is_file() else bundled("prefect.yaml")


def read_deployments() -> list[dict[str, Any]]:
    """Return the deployments of the file."""
    found: list[dict[str, Any]] = yaml.safe_load(prefect_file().read_text(encoding="utf-8"))["deployments"]
    return found


def register_deployments() -> list[str]:
    """Create the work pool where it is missing and register every deployment with it; return their names.

    Raises:
        ConfigError: Prefect refused; what it said is in the text.
    """
    deployments, file = read_deployments(), str(prefect_file())
    with get_client(sync_client=True) as client:
        for pool in {entry["work_pool"]["name"] for entry in deployments}:
            with suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file]
    # The file takes the folder that runs work in from PWD, which only a shell keeps true.
    environment = module_environment(os.environ) | {"PWD": str(Path.cwd())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"Prefect did not take {file}: {(done.stderr or done.stdout)[-2000:]}")
    return [deployment["name"] for deployment in deployments]


def deployments_to_serve() -> list[RunnerDeployment]:
    """Return the deployments for ``prefect.serve``, which needs neither a work pool nor a worker.

    One of ours that is registered with a work pool would keep waiting for a worker, and Prefect cannot remove the pool:
    so it is deleted and registered again.
    """
    ours = [_to_runner_deployment(deployment) for deployment in read_deployments()]
    with get_client(sync_client=True) as client:
        for our in ours:
            with suppress(ObjectNotFound):
                there = client.read_deployment_by_name(f"{our.flow_name}/{our.name}")
                if there.work_pool_name and TAG in there.tags:
                    client.delete_deployment(there.id)
    return ours


def _to_runner_deployment(one: dict[str, Any]) -> RunnerDeployment:
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


SILENCE = timedelta(seconds=3 * HEARTBEAT_S)
_OURS = {"prefect.resource.role": "flow", "prefect.resource.name": ["lema*", "ablation*"]}
_ENDS = (
    "Completed",
    "Failed",
    "Crashed",
    "Cancelling",
    "Cancelled",
    "Submitted",
    "BudgetReached",
    "Paused",
    "Suspended",
)
_EACH_RUN = {"prefect.resource.id": "prefect.flow-run.*"}


def crash_automation() -> AutomationCore:
    """Return the automation that marks a run as crashed when its heartbeats stop."""
    alive = {"prefect.flow-run.heartbeat"}
    return AutomationCore(
        name="lema: a run without heartbeats has crashed",
        description="A killed process cannot say so. Without this, its run would be shown as Running for ever.",
        trigger=EventTrigger(
            match=_EACH_RUN,
            match_related=_OURS,
            for_each={"prefect.resource.id"},
            after=alive,
            expect=alive | {f"prefect.flow-run.{end}" for end in _ENDS},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No heartbeat for {SILENCE.seconds} s: the process was killed, or its machine is gone. "
                "Nothing that was paid is lost. The deployment `resume`, or `lema resume`, goes on with it.",
            )
        ],
    )


def notification_automation(block: UUID) -> AutomationCore:
    """Return the automation that notifies people of a run that failed, crashed or reached its budget."""
    bad = ("Failed", "Crashed", "BudgetReached")
    return AutomationCore(
        name="lema: tell when a run needs somebody",
        trigger=EventTrigger(
            match=_EACH_RUN,
            match_related=_OURS,
            expect={f"prefect.flow-run.{state}" for state in bad},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="LeMa: {{ flow_run.name }} is {{ flow_run.state.name }}",
                body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
            )
        ],
    )


async def register_automations(notify: str | None = None) -> list[str]:
    """Create the automations, or replace those that changed; ``notify`` names a notification block.

    An unchanged one stays: it knows the runs whose heartbeats it waits for.

    Raises:
        ConfigError: there is no such block.
    """
    wanted = [crash_automation()]
    if notify:
        wanted.append(notification_automation(await _block(notify)))
    async with get_client() as client:
        for automation in wanted:
            # Distinguishes an automation from an older LeMa's; its sets have no order, so it is sorted first.
            version = hashlib.sha256(json.dumps(_sort_nested(automation.model_dump(mode="json"))).encode()).hexdigest()[
                :16
            ]
            there = await client.read_automations_by_name(automation.name)
            if [version] in [old.tags for old in there]:
                continue
            for old in there:
                await client.delete_automation(old.id)
            await client.create_automation(automation.model_copy(update={"tags": [version]}))
    return [automation.name for automation in wanted]


def _sort_nested(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sort_nested(value[key]) for key in sorted(value)}
    return sorted(map(_sort_nested, value), key=json.dumps) if isinstance(value, list) else value


async def _block(slug: str) -> UUID:
    kind, slash, name = slug.partition("/")
    async with get_client() as client:
        try:
            found = await client.read_block_document_by_name(name, kind)
        except ObjectNotFound:
            raise ConfigError(
                f"there is no block {slug!r}. Make one in the UI under Blocks; give it as TYPE/NAME, "
                "as slack-webhook/team"
            ) from None
    if not slash:
        raise ConfigError(f"--notify {slug!r} is not of the form TYPE/NAME, as slack-webhook/team")
    return found.id

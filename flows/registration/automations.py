"""Automations that ``lema deploy`` registers: a run without heartbeats has crashed; people are told what went wrong.

The one that resumes what crashed belongs to the deployment ``resume`` and stands in ``deployments/prefect.yaml``.
"""

import hashlib
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.exceptions import ObjectNotFound

from flows.local_stack.server import HEARTBEAT_S
from lema_core.errors import ConfigError

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


def crashed() -> AutomationCore:
    """Return the automation that marks a run as crashed when its process stopped giving signs of life."""
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


def notification(block: UUID) -> AutomationCore:
    """Return the automation that tells people of a run that failed, crashed or reached its budget."""
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


async def register(notify: str | None = None) -> list[str]:
    """Create the automations, or renew those that have changed; ``notify`` is a notification block, as
    ``slack-webhook/team``.

    One that is there already must stay: it knows which runs it waits for a heartbeat of.

    Raises:
        ConfigError: there is no such block.
    """
    wanted = [crashed()]
    if notify:
        wanted.append(notification(await _block(notify)))
    async with get_client() as client:
        for automation in wanted:
            version = _version(automation)
            there = await client.read_automations_by_name(automation.name)
            if [version] in [old.tags for old in there]:
                continue
            for old in there:
                await client.delete_automation(old.id)
            await client.create_automation(automation.model_copy(update={"tags": [version]}))
    return [automation.name for automation in wanted]


def _version(automation: AutomationCore) -> str:
    """Return what tells an automation from the one that an older LeMa made; its sets have no order."""
    return hashlib.sha256(json.dumps(_ordered(automation.model_dump(mode="json"))).encode()).hexdigest()[:16]


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return sorted(map(_ordered, value), key=json.dumps) if isinstance(value, list) else value


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

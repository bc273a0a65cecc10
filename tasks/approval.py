"""The approval of a quality gate's pilot, which the rest of the corrections waits for."""

import math
from typing import Literal

from prefect.artifacts import acreate_markdown_artifact
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from lema_core.artifacts import ArtifactRef, Store
from lema_core.errors import QualityGateError
from lema_core.rating.pilot import (
    Decision,
    Findings,
    decision_folder,
    findings,
    objections,
    read_decision,
    write_decision,
)
from lema_core.run.spec import RunContext
from lema_core.stages.quality_gate import PilotCorrections, QualityGateSpec
from tasks.progress import notify_user

POLL_SECONDS = 2


class Approval(RunInput):
    """The form that the Prefect UI shows at a paused run."""

    approve: Literal["yes", "no"]
    note: str = ""


async def approval(context: RunContext, stage: PilotCorrections) -> None:
    """Return once the pilot's corrections are approved, by the rule or by a person; an approval is asked for once.

    Raises:
        QualityGateError: they are refused, or no answer came in time.
    """
    spec, corrections = stage.gate, stage.ref
    folder = decision_folder(context.root, corrections)
    held = read_decision(folder)
    if held and held.approved and held.by == "person":
        return
    found = findings(Store(context.root), stage.mistakes, corrections, folder)
    if not found.mistakes:
        return
    if spec.rule:
        against = objections(spec.rule, found)
        said = {"note": "; ".join(against), "findings": found.describe()}
        decision = Decision(approved=not against, by="rule", bounds=spec.rule, **said)
    else:
        decision = await _by_person(context, spec, corrections, folder, found)
    write_decision(folder, decision)
    if not decision.approved:
        raise QualityGateError(
            f"the pilot was refused by the {decision.by}{': ' if decision.note else ''}{decision.note}. "
            f"{found.describe()} Nothing more is paid. Change the corrector ([corrections]) or the task's correction "
            f"prompt, or the bounds of [quality_gate], and run again; to be asked again: lema resume {context.run}"
        )


async def _by_person(
    context: RunContext, spec: QualityGateSpec, corrections: ArtifactRef, folder: str, found: Findings
) -> Decision:
    text = _instructions(Store(context.root).folder(corrections), folder, spec.rows, found)
    await acreate_markdown_artifact(markdown=text, key="quality-gate", description="A pilot waits for approval")
    notify_user(text)
    form = Approval.with_initial_data(description=text)
    try:
        said = await apause_flow_run(form, timeout=math.ceil(3600 * spec.wait_hours), poll_interval=POLL_SECONDS)
    except FlowPauseTimeout as error:
        raise QualityGateError(
            f"nobody approved the pilot within {spec.wait_hours:g} hours. Nothing more is paid. Be asked again with: "
            f"lema resume {context.run}; or set quality_gate.rule"
        ) from error
    return Decision(approved=said.approve == "yes", by="person", note=said.note, findings=found.describe())


def _instructions(corrections: str, folder: str, rows: int, found: Findings) -> str:
    """Return what a person has to know and do, as Markdown that reads well in a terminal too."""
    page = (PREFECT_API_URL.value() or "").removesuffix("/").removesuffix("/api")
    return (
        f"The quality gate waits for your approval. {found.describe()}\n\n"
        f"Rate the pilot: `lema rate {corrections} --out {folder} --pairs {rows} --rater YOUR_NAME`\n\n"
        f"Approve or refuse, with Resume in the menu (three dots) of the run: {page}/v2/runs/flow-run/{flow_run.id}"
    )

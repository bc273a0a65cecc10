"""The report of a run: an HTML page, its Markdown twin, and the same figures as Prefect artifacts."""

import time

from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact, acreate_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from lema_core import identities
from lema_core.artifacts import ArtifactRef, Store
from lema_core.artifacts.files import atomic_file
from lema_core.llm.ledger.store import LedgerStore
from lema_core.report import render_html, render_markdown
from lema_core.report.cards import run_model_card
from lema_core.report.load import load_evaluation, load_report_data
from lema_core.report.prose import format_percent
from lema_core.run.artifacts import Lineage
from lema_core.run.spec import RunSpec, Runtime
from tasks.boundary import task
from tasks.progress import decorative
from tasks.run_stage import SHARD_TASK, Stage, published

HTML, MARKDOWN = "report.html", "report.md"


@task(name="report", task_run_name="report", **SHARD_TASK)
async def write_report(runtime: Runtime, run: RunSpec, made: Lineage, stage: Stage) -> State[None]:
    """Gather the figures of all stages and write both pages."""
    started, store = time.monotonic(), Store(runtime.root)
    ledger = LedgerStore(runtime.ledger)
    try:
        data = load_report_data(store, run, made, ledger)
    finally:
        ledger.close()
    texts = {HTML: render_html(data), MARKDOWN: render_markdown(data)}
    texts |= {f"model_card_{arm}.md": run_model_card(run, data, arm) for arm in made.models}
    for name, text in texts.items():
        with atomic_file(store.fs, f"{store.folder(stage.ref)}/{name}") as local:
            local.write_text(text, encoding="utf-8")
    store.publish_files(stage.identity, list(texts), seconds=time.monotonic() - started)
    return Completed(message=f"{store.folder(stage.ref)}/{HTML}")


async def report(runtime: Runtime, run: RunSpec, made: Lineage) -> ArtifactRef:
    """Return the artifact of the report, and show it in Prefect: the link, and the Markdown."""
    stage = Stage(identities.report(run, made), rows=0)
    if not await published(runtime, stage):
        await write_report(runtime, run, made, stage)
    await _show(Store(runtime.root), run, stage.ref)
    return stage.ref


@decorative
async def _show(store: Store, run: RunSpec, ref: ArtifactRef) -> None:
    page, text = (f"{store.folder(ref)}/{name}" for name in (HTML, MARKDOWN))
    await acreate_link_artifact(link=store.fs.address(page), key="report-page", link_text=f"{run.name}: report")
    markdown = store.fs.cat_file(text).decode("utf-8")
    await acreate_markdown_artifact(markdown=markdown, key="report", description=run.title or run.name)


async def show_scores(store: Store, made: Lineage) -> str:
    """Put the accuracy of every evaluated model into Prefect as a table; return it as one line."""
    evaluation = load_evaluation(store, made)
    if evaluation is None:
        return "nothing was evaluated"
    scores = {score.name: format_percent(score.accuracy.value, evaluation.n) for score in evaluation.scores}
    table = [{"model": name, "accuracy": accuracy} for name, accuracy in scores.items()]
    await acreate_table_artifact(table=table, key="scores", description=f"{evaluation.n} held-out questions")
    return ", ".join(f"{name} {accuracy}" for name, accuracy in scores.items())

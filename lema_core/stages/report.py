"""The report of a run: an HTML page, its Markdown twin, and a card for each model."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lema_core.artifacts import ArtifactRef, Identity
from lema_core.artifacts.files import atomic_file
from lema_core.llm.costs.prices import price_of
from lema_core.llm.ledger.store import LedgerStore
from lema_core.report import render_html, render_markdown
from lema_core.report.cards import run_model_card
from lema_core.report.data import load_report_data
from lema_core.run.artifacts import RunArtifacts
from lema_core.run.spec import RunSpec
from lema_core.stages.stage import FileContext, FileStage

HTML, MARKDOWN = "report.html", "report.md"


def _answers(evaluations: Mapping[str, ArtifactRef], votes: Mapping[str, ArtifactRef]) -> dict[str, dict[str, str]]:
    tables = {"evaluations": evaluations, "votes": votes}
    return {kind: {name: ref.fingerprint for name, ref in table.items()} for kind, table in tables.items()}


@dataclass(frozen=True)
class Report(FileStage):
    """The figures of all stages as pages."""

    name = "report"
    revision = 7
    exclusive = False

    run: RunSpec
    artifacts: RunArtifacts

    @cached_property
    def identity(self) -> Identity:
        """The artifacts of the run, what the report calls them, and what they cost."""
        run, artifacts = self.run, self.artifacts
        further = {name: _answers(one.evaluations, one.votes) for name, one in artifacts.further_sets.items()}
        named = {
            "name": run.name,
            "title": run.title or run.name,
            "endpoints": {
                name: [
                    spec.model,
                    spec.transport,
                    price.model_dump(exclude_none=True) if (price := price_of(spec)) else None,
                ]
                for name, spec in run.endpoints.items()
            },
            **_answers(artifacts.evaluations, artifacts.votes),
            **({"further_sets": further} if further else {}),
            **({"pass_at": run.evaluation.pass_at} if run.evaluation and run.evaluation.pass_at else {}),
            "licences": run.licences,
            "stage": run.launch.zero_stage,
        }
        return self._identity(named, artifacts)

    async def make(self, context: FileContext) -> str:
        """Load the figures and write the pages."""
        store, started = context.store, time.monotonic()
        ledger = LedgerStore(context.ledger)
        try:
            data = load_report_data(store, self.run, self.artifacts, ledger)
        finally:
            ledger.close()
        texts = {HTML: render_html(data), MARKDOWN: render_markdown(data)}
        texts |= {f"model_card_{arm}.md": run_model_card(self.run, data, arm) for arm in self.artifacts.models}
        for name, text in texts.items():
            with atomic_file(store.fs, f"{store.folder(self.ref)}/{name}") as local:
                local.write_text(text, encoding="utf-8")
        self.publish(store, list(texts), started)
        return f"{store.folder(self.ref)}/{HTML}"

"""The page of a run that ended early: why it did, and what it had published until then.

It is no artifact but a state, like the run's record beside it: the next try replaces it, and a complete run removes it.
"""

from lema_core.artifacts import Store
from lema_core.artifacts.files import atomic_file, open_root
from lema_core.errors import LemaError
from lema_core.llm.ledger.store import LedgerStore
from lema_core.report.data import EarlyEnd, load_report_data
from lema_core.report.render import render_html, render_markdown
from lema_core.run.artifacts import RunArtifacts
from lema_core.run.spec import RunContext, RunSpec


def write_early_end(run: RunSpec, root: str, artifacts: RunArtifacts, error: LemaError) -> tuple[str, str]:
    """Write the page of a run that ``error`` ended; return its address and its Markdown twin.

    Raises:
        LemaError: an artifact or the ledger cannot be read, or the page not written.
    """
    context, ended = RunContext.of(run, root), EarlyEnd(why=str(error), stage=error.stage)
    store, ledger = Store(context.root), LedgerStore(context.ledger)
    try:
        data = load_report_data(store, run, artifacts.published(store), ledger, ended)
    finally:
        ledger.close()
    fs, path = open_root(root)
    html, markdown = _pages(run, path)
    texts = {html: render_html(data), markdown: render_markdown(data)}
    for place, text in texts.items():
        with atomic_file(fs, place) as local:
            local.write_text(text, encoding="utf-8")
    return fs.address(html), texts[markdown]


def remove_early_end(run: RunSpec, root: str) -> None:
    """Remove the page of an earlier try: the run is complete, and has a report."""
    fs, path = open_root(root)
    for place in _pages(run, path):
        if fs.exists(place):
            fs.rm_file(place)


def _pages(run: RunSpec, path: str) -> tuple[str, str]:
    return f"{path}/runs/{run.name}.ended.html", f"{path}/runs/{run.name}.ended.md"

"""What a sweep would do: the stages of all its cells, each once."""

from collections.abc import Iterator
from dataclasses import replace

from flows.planning.planned import PlannedStage
from flows.planning.planner import Planner
from lema_core.ablation.cells import Setting, expand
from lema_core.run.spec import RunSpec


def stages_of(run: RunSpec, root: str) -> Iterator[PlannedStage]:
    """Yield every stage of a run, or of its sweep where it has one, with what it needs.

    Raises:
        DataError: a source cannot be used.
        ConfigError: an endpoint, a task or the sweep cannot be used.
    """
    if run.ablation is None:
        yield from Planner(run, root).stages()
        return
    seen = set()
    for setting in expand(run):
        for stage in _of_setting(setting, root):
            if stage.ref not in seen:
                seen.add(stage.ref)
                yield stage


def _of_setting(setting: Setting, root: str) -> Iterator[PlannedStage]:
    data = Planner(setting.run, root)
    yield from data.collected()
    for cell in setting.cells:
        planned = data.on_the_same_data(cell.run)
        models = list(planned.fine_tuned())
        # A model that the cell's own starts from is evaluated in a cell of its own.
        planned.made.models = {arm: ref for arm, ref in planned.made.models.items() if arm == cell.arm}
        for stage in (*models, *planned.evaluated()):
            kind = stage.name.partition(":")[0]
            yield replace(stage, name=f"{kind}: {cell.name}")

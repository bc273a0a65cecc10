"""The sweep as a form: the flow behind the deployment ``ablation``, whose parameters the Prefect UI asks for."""

from pathlib import Path
from typing import Annotated, Any

from prefect.client.schemas.objects import State
from pydantic import Field, ValidationError

from flows.cancelling import end_in_a_state
from flows.deployed import ROOT, RUN_FILES, RunFile, run_recorded, titled
from lema_core.ablation.cells import expand
from lema_core.ablation.specs import AblationSpec, BaseModelSpec
from lema_core.errors import ConfigError
from lema_core.mixture import ARMS
from lema_core.run.files import problems, read_run_file
from lema_core.run.spec import RunSpec
from tasks.boundary import flow

SMOKE = str(RUN_FILES / "ablation_smoke.toml")
"""What the form starts with: it needs no key and costs nothing."""
BundledArm = Annotated[str, Field(json_schema_extra={"enum": list(ARMS)})]
Seed = Annotated[int, Field(ge=0)]


@flow(name="lema-ablation", flow_run_name=titled("ablation: "), persist_result=False)
@end_in_a_state
async def ablation_form(  # noqa: PLR0913, PLR0917 - the fields of a form
    run_file: RunFile = SMOKE,
    arms: list[BundledArm] = [],  # noqa: B006 - a form shows plain defaults only
    own_arms: list[str] = [],  # noqa: B006 - as above
    seeds: list[Seed] = [],  # noqa: B006 - as above
    reference: str = "",
    bases: list[BaseModelSpec] = [],  # noqa: B006 - as above
    changes: dict[str, dict[str, Any]] = {},  # noqa: B006 - as above
    parallel: Annotated[int, Field(ge=0)] = 0,
    settings: list[str] = [],  # noqa: B006 - as above
    root: str = ROOT,
) -> State[None]:
    """Fine-tune and compare arms x seeds x base models x settings. Finished cells are not made again.

    Args:
        run_file: Path of a run file, from the folder that the worker runs in. It says everything that is not varied.
        arms: What is compared; none chosen: the arms of the run file.
        own_arms: Arms that the run file defines itself, as `[arms.<name>]`; added to the chosen ones.
        seeds: Each arm is fine-tuned once a seed; none given: the seeds of the run file.
        reference: The arm that the others are compared with; empty: the run file's, else the first.
        bases: Models to fine-tune, each with a name and where the untouched one is asked; none: the run file's.
        changes: Options of the run file to vary, by the setting's name, as `{"long": {"training": {"epochs": 3}}}`.
        parallel: Cells at a time, which share the GPUs; 0: as the run file says.
        settings: Options of the run file to change for all cells, one an entry, as `questions.limit=200`.
        root: Where artifacts and the ledger lie: a folder, or a URL such as `s3://bucket/lema`.
    """
    filled = {
        "arms": [*arms, *own_arms], "seeds": seeds, "reference": reference, "settings": changes, "parallel": parallel,
        "bases": [base.model_dump() for base in bases],
    }  # fmt: skip
    run = fill_in_sweep(
        read_run_file(Path(run_file), settings), {name: value for name, value in filled.items() if value}
    )
    expand(run)
    return await run_recorded(run, root)


def fill_in_sweep(run: RunSpec, filled: dict[str, Any]) -> RunSpec:
    """Return the run with what was filled in in the place of its own sweep's.

    Raises:
        ConfigError: a field cannot be used; each wrong one is named.
    """
    own = run.ablation.model_dump(exclude_unset=True) if run.ablation else {}
    if "arms" in filled and "reference" not in filled and own.get("reference") not in filled["arms"]:
        own.pop("reference", None)
    try:
        return run.model_copy(update={"ablation": AblationSpec.model_validate(own | filled)})
    except ValidationError as error:
        raise ConfigError("\n".join(["the form of the sweep:", *problems(error)])) from error

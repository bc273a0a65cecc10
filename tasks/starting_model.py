"""Where the weights of an artifact of the stage ``training`` lie."""

from lema_core.artifacts import ArtifactRef, Store
from lema_core.training import TrainingSpec


def based_on(store: Store, spec: TrainingSpec, start: ArtifactRef | None) -> TrainingSpec:
    """Return the spec with the model of another arm as its base; unchanged where there is none."""
    if start is None:
        return spec
    return spec.model_copy(update={"base": str(store.local_folder(start) / "model")})

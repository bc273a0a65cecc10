"""What a training run needs, checked before anything is paid or loaded: of its specs, and of the machine."""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.training.options import check_options
from lema_core.training.specs import LaunchSpec, TrainingSpec, check_starts

_TORCH_ADAMW = ("adamw_torch", "adamw_torch_fused")


def check_arms(arms: Mapping[str, TrainingSpec], launch: LaunchSpec) -> None:
    """Refuse what no arm of a run file can be trained by; arms in the order of training.

    Raises:
        ValueError: an arm starts from a model that is not there yet, or ``check_possible`` refuses its training.
    """
    check_starts(arms)
    for arm, spec in arms.items():
        try:
            check_possible(spec, launch)
        except ConfigError as error:
            raise ValueError(f"the training of the arm {arm!r}: {error}") from error


def check_possible(spec: TrainingSpec, launch: LaunchSpec) -> None:
    """Refuse what would fail late, or would be another run only by its name.

    Raises:
        ConfigError: qlora under ZeRO-3, an option that our trainers override, or an optimiser that cannot be offloaded.
    """
    check_options(spec)
    if spec.method == "qlora" and launch.zero_stage == 3:
        # transformers refuses a device map under ZeRO-3, and bitsandbytes' weights are not sharded by it.
        raise ConfigError(
            "method = 'qlora' with launch.zero_stage = 3: ZeRO-3 cannot share out 4-bit weights. "
            "Set launch.zero_stage = 2, or method = 'lora'"
        )
    optimiser = spec.trl.get("optim", _TORCH_ADAMW[0])
    if launch.offload_optimizer and optimiser not in _TORCH_ADAMW:
        raise ConfigError(
            f"trl.optim = {optimiser!r} with launch.offload_optimizer: on the host DeepSpeed computes AdamW only. "
            "Take one of them out"
        )


_HOST = re.compile(r"\S+\s+slots=[1-9]\d*(\s*#.*)?")


def check_machine(spec: TrainingSpec, launch: LaunchSpec) -> None:
    """Refuse a run that this machine cannot do.

    Raises:
        ConfigError: the specs do not go together, qlora is asked for without a CUDA GPU, or the hostfile names no
            hosts.
        MissingDependencyError: a tracker is asked for that is not installed, or qlora without bitsandbytes.
    """
    check_possible(spec, launch)
    for tracker in launch.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise MissingDependencyError(
                f"launch.trackers has {tracker!r}, which is not installed: run `pip install {tracker}`, or take it out"
            )
    if launch.hostfile:
        # DeepSpeed would run on this machine alone, with no more than a line in its log.
        file = Path(launch.hostfile)
        if not file.is_file():
            raise ConfigError(
                f"launch.hostfile = '{file}': there is no such file; expected a line `host slots=8` a node"
            )
        lines = [line for line in map(str.strip, file.read_text().splitlines()) if line and not line.startswith("#")]
        if wrong := [line for line in lines if not _HOST.fullmatch(line)]:
            raise ConfigError(f"{file} has the line {wrong[0]!r}: expected `host slots=8`")
        if not lines:
            raise ConfigError(f"{file} names no host: expected a line `host slots=8` a node")
    # With a hostfile the ranks are on other machines than the one that starts them.
    if spec.method == "qlora" and not launch.hostfile:
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("method = 'qlora' needs a CUDA GPU (NF4 kernels): use 'lora' or 'full' on this machine")
        if importlib.util.find_spec("bitsandbytes") is None:
            raise MissingDependencyError("method = 'qlora' needs bitsandbytes: run `pip install bitsandbytes`")

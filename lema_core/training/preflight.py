"""What a machine must have for a training run, looked at before anything is paid or loaded."""

import importlib.util
import re
from pathlib import Path

from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.training.checks import check_possible
from lema_core.training.specs import LaunchSpec, TrainingSpec

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
        _check_hostfile(Path(launch.hostfile))
    # With a hostfile the ranks are on other machines than the one that starts them.
    if spec.method == "qlora" and not launch.hostfile:
        _check_four_bit()


def _check_hostfile(file: Path) -> None:
    """Refuse what DeepSpeed would make a run on this machine alone of, with no more than a line in its log."""
    if not file.is_file():
        raise ConfigError(f"launch.hostfile = '{file}': there is no such file; expected a line `host slots=8` a node")
    lines = [line for line in map(str.strip, file.read_text().splitlines()) if line and not line.startswith("#")]
    if wrong := [line for line in lines if not _HOST.fullmatch(line)]:
        raise ConfigError(f"{file} has the line {wrong[0]!r}: expected `host slots=8`")
    if not lines:
        raise ConfigError(f"{file} names no host: expected a line `host slots=8` a node")


def _check_four_bit() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("method = 'qlora' needs a CUDA GPU (NF4 kernels): use 'lora' or 'full' on this machine")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError("method = 'qlora' needs bitsandbytes: run `pip install bitsandbytes`")

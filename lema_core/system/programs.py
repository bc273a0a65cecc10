"""What the programs that we start are given: environment variables by an allow-list, GPUs, and the network or not.

The variables are what a program needs to run, never a provider's key. A deny-list could not be complete, since keys
have any name (``OPENAI_KEY``, ``MY_TEACHER``). The GPUs are those that the work at hand is restricted to, for
training runs and model servers alike. ``python -m lema_core.system.programs MODULE ARGUMENT ...`` runs a module
without the network.
"""

import ctypes
import os
import re
import resource
import runpy
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from lema_core.system.processes import die_with_parent

HUB_TOKEN = "HF_TOKEN"  # noqa: S105  a variable's name
TRACKER_KEY = "WANDB_API_KEY"

_NAMES = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TERM", "COLUMNS", "LINES", "TZ", "TMPDIR", "TEMP", "TMP",
    "LANG", "LANGUAGE", "VIRTUAL_ENV", "CONDA_PREFIX", "SYSTEMROOT", "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS",
    "MAX_JOBS", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "LEMA_CACHE", "DO_NOT_TRACK", "CPATH", "LIBRARY_PATH", "LDSHARED",
})  # fmt: skip
_PREFIXES = (
    "PYTHON", "LC_", "LD_", "DYLD_", "XDG_", "CUDA", "NVIDIA_", "NCCL_", "GLOO_", "UCX_", "FI_", "OFI_", "HIP_", "HSA_",
    "ROCM", "ROCR_", "MIOPEN_", "OMP_", "OMPI_", "PMI", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_",
    "TORCH", "PYTORCH_", "TRITON_", "XLA_", "DS_", "DEEPSPEED_", "ACCELERATE_", "HF_", "TRANSFORMERS_", "TOKENIZERS_",
    "SAFETENSORS_", "BITSANDBYTES_", "BNB_", "FLASH_ATTENTION_", "VLLM_", "SGLANG_", "LLAMA_", "GGML_", "OLLAMA_",
    "GLIBC_", "MALLOC_", "SLURM_", "PBS_", "LSF_", "LSB_", "WANDB_", "TRACKIO_", "TENSORBOARD_", "JEMALLOC_",
)  # fmt: skip
_SECRET = re.compile(
    r"(?:^|_)(?:[A-Z]*KEYS?|TOKENS?|SECRETS?|PASS|PASSWORDS?|PASSWD|PASSPHRASE|PAT|CREDENTIALS?|AUTH|COOKIE)\d*(?:_|$)"
)
"""Within the allowed prefixes: ``VLLM_API_KEY`` is a server's, but a key."""


def program_environment(
    more: Collection[str] = (), *, network: bool = True, given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment for a program that we start.

    Args:
        more: names of variables that it gets beside the allowed ones, keys among them.
        network: whether it may reach the network; without, it gets no proxy and no certificate settings.
        given: what to choose from, this process's environment by default.
    """
    plain = os.environ if given is None else given
    return {name: value for name, value in plain.items() if name in more or _is_allowed(name, network)}


def _is_allowed(name: str, network: bool) -> bool:
    upper = name.upper()
    if not network and (upper.endswith(("_PROXY", "_CA_BUNDLE")) or "CERT" in upper):
        return False
    return (upper in _NAMES or upper.startswith(_PREFIXES)) and not _SECRET.search(upper)


VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
Devices = tuple[str, ...]

_devices: ContextVar[Devices] = ContextVar("devices", default=())


@contextmanager
def use_devices(devices: Devices) -> Iterator[None]:
    """Let every program that is started inside see these GPUs only; an empty tuple changes nothing."""
    before = _devices.set(devices or _devices.get())
    try:
        yield
    finally:
        _devices.reset(before)


def assigned_devices() -> Devices:
    """Return the GPUs that this work is restricted to; empty where it is not restricted."""
    return _devices.get()


def device_environment(plain: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment in which a program sees the assigned GPUs only."""
    return dict(plain) | ({VISIBLE_DEVICES: ",".join(_devices.get())} if _devices.get() else {})


def share_devices(devices: Sequence[str], workers: int) -> list[Devices]:
    """Return the GPUs of each worker: all of them for a single worker, in turn where there are fewer than workers."""
    if len(devices) < workers:
        return [(devices[i % len(devices)],) if devices else () for i in range(workers)]
    return [tuple(devices[i::workers]) for i in range(workers)]


_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


def isolate() -> bool:
    """Remove the network from this process, which must have one thread; return whether the kernel did so.

    By a network namespace of its own, on Linux, where this user may create one. Elsewhere the network stays, and the
    protection is that no code of the files is run. The process dies with its parent and writes no core dump.
    """
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    # Without the right to create one directly, through a user namespace, which some kernels refuse as well.
    return unshare is not None and (unshare(_CLONE_NEWNET) == 0 or unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


if __name__ == "__main__":
    isolate()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

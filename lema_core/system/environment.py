"""Which environment variables the programs that we start are given: what they need to run, never a provider's key.

By an allow-list: keys have any name (``OPENAI_KEY``, ``MY_TEACHER``), so no list of what is left out could be complete.
"""

import os
import re
from collections.abc import Collection, Mapping

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
    return {name: value for name, value in plain.items() if name in more or _allowed(name, network)}


def _allowed(name: str, network: bool) -> bool:
    upper = name.upper()
    if not network and (upper.endswith(("_PROXY", "_CA_BUNDLE")) or "CERT" in upper):
        return False
    return (upper in _NAMES or upper.startswith(_PREFIXES)) and not _SECRET.search(upper)

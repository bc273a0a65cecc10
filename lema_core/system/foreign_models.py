"""Models of others: their weights and tables are read, their chat templates rendered, and no code of theirs is run.

A chat template comes with a model and is a program: Jinja's sandbox keeps it from files and attributes, not from two
nested loops that take hours, or a text of 10 GB. So a process of its own renders it, within limits of time and memory.
"""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lema_core.errors import ConfigError
from lema_core.system.processes import module_environment, program_environment

DATA_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
"""The files of a checkpoint that are data, all that a model of a known architecture consists of."""
_TABLES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})
"""Their keys are tokens."""
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines"})


def data_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a checkpoint folder that are data."""
    for pattern in DATA_FILES:
        yield from sorted(path for path in folder.glob(pattern) if path.is_file())


def refuse_code(folder: Path) -> None:
    """Refuse a checkpoint folder that brings code of its own: ``auto_map`` in one of its files, or Python files.

    Raises:
        ConfigError: it does, or one of its files cannot be read.
    """
    code = sorted(path.name for path in folder.rglob("*.py"))
    settings = (path for path in sorted(folder.glob("*.json")) if path.name not in _TABLES)
    named = [path.name for path in settings if _CODE_KEYS & set(_keys(_read(path)))]
    if seen := [*(f"auto_map in {name}" for name in named), *code]:
        raise ConfigError(
            f"the checkpoint {folder} brings code of its own: {', '.join(seen[:4])}. Code of a model is never run "
            "here. Expected a folder with safetensors of an architecture that transformers knows; take another "
            "checkpoint, or serve this one by a server that you trust with it, and give its base_url"
        )


def _read(path: Path) -> Any:
    # An index of weights or a vocabulary may be large, but both are flat.
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read as JSON ({type(error).__name__}): the checkpoint is damaged; copy it again"
        ) from None


def _keys(value: Any) -> Iterator[str]:
    """Yield every key of nested JSON, without recursion."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item
            waiting.extend(child for child in item.values() if isinstance(child, dict | list))
        elif isinstance(item, list):
            waiting.extend(child for child in item if isinstance(child, dict | list))


RENDER_CPU_SECONDS = 3
"""For one prompt; the longest real templates take a few milliseconds."""
MEMORY_MIB = 1024
TEMPLATE_DATE = "2024-07-26"
"""What a template gets for today, so that a prompt is the same on every day. Llama's own templates have this date where
a server gives none."""


class ChatTemplates:
    """Renders templates in one child process, started with the first one. Safe from several threads."""

    def __init__(self, *, cpu_seconds: int = RENDER_CPU_SECONDS, memory_mib: int = MEMORY_MIB) -> None:
        self._limits = cpu_seconds, memory_mib
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def render(
        self,
        template: str,
        messages: Sequence[Mapping[str, Any]],
        special: Mapping[str, str] | None = None,
        *,
        generation_prompt: bool = True,
        arguments: Mapping[str, Any] | None = None,
        date: str = TEMPLATE_DATE,
    ) -> str:
        """Return a chat rendered by a template.

        Args:
            template: Jinja's text.
            messages: the chat.
            special: the special tokens by the template's names.
            generation_prompt: open the turn of an answer at the end.
            arguments: the template's own switches, as ``enable_thinking``.
            date: what ``strftime_now`` takes for today, ``YYYY-MM-DD``.

        Raises:
            ConfigError: the template refuses the chat, fails, or exceeds its limit of time or memory.
        """
        job = {"template": template, "messages": list(messages), "generation_prompt": generation_prompt}
        line = json.dumps(job | {"special": dict(special or {}), "arguments": dict(arguments or {}), "date": date})
        with self._lock:
            reply = self._send_job(line)
        if "text" in reply:
            return str(reply["text"])
        raise ConfigError(
            f"the chat template refuses a prompt ({reply['refused']}): the model's server would, too. Use another "
            "model, or another prompt"
        )

    def close(self) -> None:
        """End the child; a later call starts another one."""
        with self._lock:
            self._end()

    def _send_job(self, line: str) -> dict[str, Any]:
        if self._child is not None and self._child.poll() is not None:
            # It ended between two prompts, which says nothing about this one's template.
            self._end()
        child = self._child = self._child or self._start_child()
        try:
            assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018  both are pipes
            child.stdin.write(line + "\n")
            child.stdin.flush()
            answer = child.stdout.readline()
        except OSError:
            answer = ""
        if answer:
            reply: dict[str, Any] = json.loads(answer)
            return reply
        self._end()
        seconds, memory = self._limits
        return {"refused": f"it takes more than {seconds} s of CPU time or {memory} MiB for one prompt: it loops"}

    def _start_child(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(  # noqa: S603  our own module in our own interpreter
            [sys.executable, "-m", "lema_core.system.chat_template_worker", *map(str, self._limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=module_environment(program_environment(network=False)),
        )

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                # What was not sent any more is lost with the child.
                with contextlib.suppress(OSError):
                    pipe.close()


_shared = ChatTemplates()


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    special: Mapping[str, str] | None = None,
    *,
    generation_prompt: bool = True,
    arguments: Mapping[str, Any] | None = None,
    date: str = TEMPLATE_DATE,
) -> str:
    """Render by this process's own child; see `ChatTemplates.render`."""
    return _shared.render(
        template, messages, special, generation_prompt=generation_prompt, arguments=arguments, date=date
    )

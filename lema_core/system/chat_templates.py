"""Chat templates rendered as the model's own library renders them, but with limits of time and memory.

A template comes with a model and is a program: Jinja's sandbox keeps it from files and attributes, not from two nested
loops that take hours, or a text of 10 GB. So templates are rendered in a process of their own, which the kernel ends.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lema_core.errors import ConfigError
from lema_core.system.environment import program_environment

RENDER_CPU_SECONDS = 3
"""For one prompt; the longest real templates take a few milliseconds."""
MEMORY_MIB = 1024


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
    ) -> str:
        """Return the text that a template makes of a chat; ``special`` are its names for special tokens.

        Raises:
            ConfigError: the template refuses the chat, fails, or takes more than its time or memory.
        """
        job = {"template": template, "messages": list(messages), "generation_prompt": generation_prompt}
        line = json.dumps(job | {"special": dict(special or {})})
        with self._lock:
            reply = self._asked(line)
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

    def _asked(self, line: str) -> dict[str, Any]:
        child = self._child = self._child or self._started()
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
        return {"refused": f"it takes more than {seconds} s of CPU time or {memory} MiB for one prompt"}

    def _started(self) -> "subprocess.Popen[str]":
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        return subprocess.Popen(  # noqa: S603  our own module in our own interpreter
            [sys.executable, "-m", "lema_core.system.chat_template_worker", *map(str, self._limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=program_environment(network=False) | {"PYTHONPATH": path},
        )

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


_shared = ChatTemplates()


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    special: Mapping[str, str] | None = None,
    *,
    generation_prompt: bool = True,
) -> str:
    """Render by this process's own child; see `ChatTemplates.render`."""
    return _shared.render(template, messages, special, generation_prompt=generation_prompt)

"""The process that renders chat templates for ``chat_templates``: a job is a line of JSON, and so is its answer."""

import datetime as dt
import json
import os
import resource
import sys
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lema_core.system.processes import isolate

MAX_PROMPT_CHARS = 16_000_000


def main() -> None:
    """Render until the input ends, each job within its limits: beyond them the kernel ends this process."""
    cpu_seconds, memory = int(sys.argv[1]), int(sys.argv[2]) << 20
    # Without `die_with_parent`: to the kernel the parent is the thread that started this process, and that one may end
    # long before its process does. The end of the input ends it as well.
    isolate()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    for line in sys.stdin:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        # Whole seconds of all CPU time since the start: at least as many as are given to a job.
        used = int(usage.ru_utime + usage.ru_stime) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (used + cpu_seconds, resource.RLIM_INFINITY))
        try:
            text = _render(json.loads(line))
            reply = {"text": text} if len(text) <= MAX_PROMPT_CHARS else {"refused": f"it makes {len(text)} characters"}
            answer = json.dumps(reply)
        except (Exception, RecursionError) as error:  # noqa: BLE001  a template is a program and may raise anything
            words = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            answer = json.dumps({"refused": words[:400]})
        out.write(answer + "\n")
        out.flush()


def _render(job: dict[str, Any]) -> str:
    chat = {"messages": job["messages"], "add_generation_prompt": job["generation_prompt"]}
    # Not the clock: the prompt of one request, and the tokens of one training, would depend on the day.
    chat["strftime_now"] = dt.datetime.fromisoformat(job["date"]).strftime
    text: str = _compile(job["template"]).render(**job["special"] | job["arguments"] | chat)
    return text


class _Generation(Extension):
    """Transformers' block around what a model wrote: its marks are no text."""

    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: Parser) -> list[Node]:
        """Return the statements inside the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=8)
def _compile(template: str) -> Any:
    """Compile a template as transformers does."""
    room = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    room.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    room.globals["raise_exception"] = _refuse
    return room.from_string(template)


def _refuse(reason: str) -> None:
    raise TemplateError(reason)


if __name__ == "__main__":
    main()

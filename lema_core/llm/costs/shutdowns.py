"""When vendors switch models off: a dated table with its sources, for plans and for the run files that we ship.

`genai-prices` marks some models as deprecated and knows no dates. The dates hold for the vendor's own API; gateways and
clouds set their own.
"""

import datetime as dt
import re
from dataclasses import dataclass

from lema_core.llm.endpoints import EndpointSpec

AS_OF = dt.date(2026, 11, 30)
"""The day on which the table was read from its sources."""
NEAR = dt.timedelta(days=60)
"""A plan warns this long before: the vendors announce two to six months ahead."""
_SNAPSHOT = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)$")
"""The end of a model's name that names one version of it: gpt-4.1-2025-04-14, claude-opus-4-20250514."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The end of a model."""

    model: str
    on: dt.date
    instead: str
    """What the vendor recommends, empty if it names nothing."""
    source: str

    def warning(self, name: str, today: dt.date) -> str:
        """Return the sentence for a model that was, or is about to be, switched off; empty if neither."""
        if today < self.on - NEAR:
            return ""
        when = f"is switched off on {self.on}" if today < self.on else f"was switched off on {self.on}"
        instead = f" Its vendor recommends {self.instead}." if self.instead else ""
        return (
            f"{name} {when} ({self.source}, read on {AS_OF}).{instead} Another model has other keys: it is paid anew."
        )


_OPENAI = "https://developers.openai.com/api/docs/deprecations"
_ANTHROPIC = "https://platform.claude.com/docs/en/about-claude/model-deprecations"

SHUTDOWNS: tuple[Shutdown, ...] = (
    *(
        Shutdown(model, dt.date(2026, 10, 23), "", _OPENAI)
        for model in ("gpt-4", "gpt-3.5-turbo", "gpt-4-turbo", "o1", "o4-mini", "gpt-4.1-nano")
    ),
    Shutdown("gpt-5-chat", dt.date(2026, 7, 23), "", _OPENAI),
    Shutdown("gpt-5", dt.date(2026, 12, 11), "", _OPENAI),
    Shutdown("o3", dt.date(2026, 12, 11), "", _OPENAI),
    Shutdown("gpt-4.1", dt.date(2027, 1, 14), "gpt-6-luna", _OPENAI),
    Shutdown("claude-opus-4", dt.date(2026, 6, 15), "claude-opus-4-8", _ANTHROPIC),
    Shutdown("claude-sonnet-4", dt.date(2026, 6, 15), "claude-sonnet-4-6", _ANTHROPIC),
    Shutdown("claude-opus-4-5", dt.date(2027, 1, 22), "claude-opus-5-5", _ANTHROPIC),
)


def find_shutdown(model: str) -> Shutdown | None:
    """Return when a model is switched off, also one named with its version or after a gateway's folder."""
    name = model.rsplit("/", 1)[-1].lower()
    bare = _SNAPSHOT.sub("", name)
    return next((row for row in SHUTDOWNS if row.model in {name, bare}), None)


def shutdown_warning(spec: EndpointSpec, today: dt.date | None = None) -> str:
    """Return what a user should know of the end of an endpoint's model; empty if it is far off or unknown."""
    if spec.command:
        return ""
    row = find_shutdown(spec.model)
    return (
        row.warning(f"{spec.model!r} of endpoint {spec.name!r}", today or dt.datetime.now(dt.UTC).date()) if row else ""
    )

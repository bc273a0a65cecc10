"""An OpenAI-compatible endpoint that needs no model: for tests, for trying a run file, for chaos and load tests.

Contract: it listens on loopback only; every answer is a pure function of the request's body and the server's seed, so
two runs are byte-identical; faults are drawn by hash and attempt, so a run with faults can be repeated exactly. It
replays recorded solutions, corrects by the reference corrector, makes student paths and new questions from gold
rationales. None of this is a language model, and no text of it claims to be one. Usage counts words and signs, not a
tokenizer's tokens.

Paths: ``/v1/models``, ``/v1/chat/completions``, ``/v1/files``, ``/v1/batches``, ``/health``, ``/stats`` (``?payments``
lists each request), and by POST ``/reset`` and ``/faults``, which ask for ``control_token`` where it is set. Pages of
other origins and other host names are refused.
"""

from lema_core.llm.simulated.chat import ChatRequest, Faults, Reply, Respond
from lema_core.llm.simulated.models import Library, Models, UnknownModelError, UnknownQuestionError
from lema_core.llm.simulated.server import SimulatedEndpoint, parse_faults, serve
from lema_core.llm.simulated.vendors import RULE_SETS, RuleSet

__all__ = [
    "RULE_SETS",
    "ChatRequest",
    "Faults",
    "Library",
    "Models",
    "Reply",
    "Respond",
    "RuleSet",
    "SimulatedEndpoint",
    "UnknownModelError",
    "UnknownQuestionError",
    "parse_faults",
    "serve",
]

"""One way to talk to a model: every completion goes through the ledger, is paid once and is never lost.

Contract: a completion is committed before anyone sees it; a failed request is a row with a reason, never an exception;
an error (`EndpointError`, `BudgetExceededError`, `LedgerError`) means that no further request could succeed.
"""

from lema_core.llm.endpoints import EndpointSpec, Price, running
from lema_core.llm.engine import Engine
from lema_core.llm.ledger.credit import Budget
from lema_core.llm.progress import Snapshot
from lema_core.llm.requests import Completion, CompletionRequest, Failure, Outcome, Sampling, request_key

__all__ = [
    "Budget",
    "Completion",
    "CompletionRequest",
    "EndpointSpec",
    "Engine",
    "Failure",
    "Outcome",
    "Price",
    "Sampling",
    "Snapshot",
    "request_key",
    "running",
]

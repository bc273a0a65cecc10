"""Every error LeMa raises, as one tree. A message says what was seen, what was expected and what to do.

LemaError
├── ConfigError              a run file, a spec or an option cannot be used
│   └── UnstableValueError   a value has no canonical JSON and so no identity
├── DataError                a source file or a row cannot be used
├── ArtifactError            an artifact is missing, torn or does not add up
├── EndpointError            a model's endpoint refuses, does not start or does not answer
│   ├── AuthenticationError  the endpoint refuses our key
│   ├── BatchPendingError    a batch is submitted and not finished; a later run collects it
│   ├── RequestsFailedError  too many requests of a shard or a stage failed
│   └── UnusableAnswersError nearly all answers of a stage are empty, cut off or without the form that was asked for
├── LedgerError              the completion ledger cannot be opened, read or written
├── QualityGateError         the pilot of corrections was refused, or not approved in time
├── BudgetExceededError      the next request would pass the budget; everything paid so far is kept
├── TrainingError            a training run failed; the last complete checkpoint is kept
├── MissingDependencyError   an optional part (training, the embedded server) is not installed
├── ServerGoneError          the server of the UI stopped answering; what was paid is kept
├── CancelledRunError        a person cancelled the run; what was paid is kept
├── ShardsFailedError        some shards of a stage failed; the others are kept
├── CellsFailedError         some cells of a sweep failed; the others are kept
└── UnexpectedError          an error of a library, of the machine or of LeMa itself that nothing foresaw

A failed *sample* is not an error but a rejected row with a reason code.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Self


class LemaError(Exception):
    """Base of all errors raised on purpose. Its text is written for the user."""

    stage: str = ""
    """The stage of a run that it ended; empty where it ended none."""


class ConfigError(LemaError):
    """A run file, a spec or an option cannot be used."""


class UnstableValueError(ConfigError):
    """A value has no stable canonical JSON, so an artifact that depends on it would have no identity."""


class DataError(LemaError):
    """A source file, or a row in it, cannot be used."""


class ArtifactError(LemaError):
    """An artifact is missing, torn, or its rows do not add up."""


class EndpointError(LemaError):
    """A model's endpoint refuses, does not start or does not answer."""


class AuthenticationError(EndpointError):
    """The endpoint refuses our key: no request to it can succeed."""


class BatchPendingError(EndpointError):
    """A batch is submitted and not finished yet. Nothing is wrong: a later run collects it."""


class RequestsFailedError(EndpointError):
    """More requests of a shard or a stage failed than ``runtime.max_failed`` lets pass as rejected rows.

    ``reasons`` says how many failed and why, of ``requests``; ``words`` is what the endpoint said, by reason;
    ``advice`` what to do about it.
    """

    def __init__(
        self,
        reasons: Mapping[str, int],
        requests: int,
        allowed: float,
        words: Mapping[str, str] = MappingProxyType({}),
        advice: str = "",
    ) -> None:
        super().__init__(reasons, requests, allowed, dict(words), advice)
        self.reasons, self.requests, self.allowed = reasons, requests, allowed
        self.words, self.advice = dict(words), advice

    @classmethod
    def combine(cls, errors: Sequence[Self]) -> Self:
        """Return one error for those of several shards."""
        reasons = sum((Counter(error.reasons) for error in errors), Counter[str]())
        words = {reason: said for error in errors for reason, said in error.words.items()}
        requests = sum(error.requests for error in errors)
        return cls(dict(sorted(reasons.items())), requests, errors[0].allowed, words, errors[0].advice)

    @property
    def refused(self) -> bool:
        """Return whether every request failed, and none of them by an outage or an overload."""
        refusals = {"bad_request", "malformed", "content_filter"}
        return sum(self.reasons.values()) == self.requests and self.reasons.keys() <= refusals

    def __str__(self) -> str:
        """Return the figures and what to do."""
        said = "; ".join(f"{reason}: {self.words[reason]}" for reason in self.reasons if reason in self.words)
        return (
            f"{sum(self.reasons.values())} of {self.requests} requests failed "
            f"({', '.join(f'{count} {reason}' for reason, count in self.reasons.items())}), more than "
            f"runtime.max_failed = {self.allowed:g} lets pass. "
            + (f"The endpoint's words: {said}. " if said else "")
            + (f"{self.advice}. " if self.advice else "")
            + "Their shards are not written; every answer is kept, and `lema resume` (or the same command again) asks "
            "only for the others. To accept them as rejected rows: --set runtime.max_failed=1"
        )


class UnusableAnswersError(EndpointError):
    """Nearly all answers of a stage are empty, cut off or unparsable: the stages after it would work on nothing."""

    def __init__(self, stage: str, causes: Sequence[str], remedy: str) -> None:
        super().__init__(stage, list(causes), remedy)
        self.stage, self.causes, self.remedy = stage, list(causes), remedy

    def __str__(self) -> str:
        """Return what came back, and what to do."""
        return (
            f"{self.stage}: {'; '.join(self.causes)}. What to do: {self.remedy}. Nothing was published and no later "
            "stage ran. What was paid is in the ledger, also for the same request later: if the server is changed and "
            "not the run file, give the endpoint another `identity`. To go on all the same: --set runtime.max_failed=1"
        )


class LedgerError(LemaError):
    """The completion ledger cannot be opened, read or written."""


class BudgetExceededError(LemaError):
    """The next request would pass the budget. Everything paid so far is in the ledger.

    ``reached`` says which limit; ``remaining`` what is not paid yet and would cost how much.
    """

    def __init__(self, reached: str, remaining: str = "") -> None:
        super().__init__(reached, remaining)
        self.reached = reached

    def __str__(self) -> str:
        """Return both in one line."""
        return "; ".join(part for part in self.args if part)


class QualityGateError(LemaError):
    """The pilot of corrections was refused, or not approved in time. Nothing more is paid."""


class TrainingError(LemaError):
    """A training run failed. The last complete checkpoint is kept."""


class MissingDependencyError(LemaError):
    """An optional part of LeMa is not installed."""


class ServerGoneError(LemaError):
    """The server that shows the runs stopped answering. What was paid and finished is kept."""


class CancelledRunError(LemaError):
    """A person cancelled the run. What was paid is kept."""


class ShardsFailedError(LemaError):
    """Some shards of a stage failed; the finished ones are kept and will not run again."""


class CellsFailedError(LemaError):
    """Some cells of a sweep failed; the finished ones are kept and will not be made again."""


class UnexpectedError(LemaError):
    """An error of a library, of the machine or of LeMa itself that nothing foresaw, in words without secrets."""

"""Prefect's `task` and `flow` for our functions: what they raise is ours before Prefect sees it.

Prefect writes the repr and the traceback of an exception into its log, its database and the UI. Those of a library's
exception may hold a request's headers, and so a key. Prefect's own exceptions and signals pass as they are.
"""

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import prefect
from prefect.exceptions import PrefectException
from prefect.utilities.hashing import file_hash

from lema_core.system.redaction import to_lema_error
from tasks.progress import server_gone

P = ParamSpec("P")
R = TypeVar("R")
OWN_ERRORS = "__own_errors__"
"""Marks a function whose exceptions are ours; a test looks for it on every task and flow."""


def task(**options: Any) -> Callable[[Callable[P, R]], prefect.Task[P, R]]:
    """Return Prefect's decorator of that name, for a function whose exceptions become ours."""

    def decorate(function: Callable[P, R]) -> prefect.Task[P, R]:
        return prefect.task(**options)(own_errors(function))

    return decorate


def flow(**options: Any) -> Callable[[Callable[P, R]], prefect.Flow[P, R]]:
    """Return Prefect's decorator of that name, for a function whose exceptions become ours."""

    def decorate(function: Callable[P, R]) -> prefect.Flow[P, R]:
        # By default the hash of the file that the function is in, which would be this one.
        version = file_hash(inspect.getfile(function))
        return prefect.flow(version=version, **options)(own_errors(function))

    return decorate


def own_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function, mostly a coroutine function, so that it raises nothing but `LemaError`s and Prefect's own."""

    @wraps(function)
    async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return await cast("Callable[P, Awaitable[Any]]", function)(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 that is the purpose
            found = _passed(error)
        raise found

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 that is the purpose
            found = _passed(error)
        raise found

    wrapped: Any = awaited if inspect.iscoroutinefunction(function) else called
    setattr(wrapped, OWN_ERRORS, True)
    return cast("Callable[P, R]", wrapped)


def _passed(error: Exception) -> Exception:
    return error if isinstance(error, PrefectException) or server_gone(error) else to_lema_error(error)

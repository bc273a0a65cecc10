"""Run a simulated endpoint until it is told to stop: what ``lema simulate`` and ``python -m`` have in common."""

import asyncio
import os
import secrets
import signal
from collections.abc import Callable, Iterable

from pydantic import ValidationError

from lema_core.errors import ConfigError
from lema_core.llm.simulated.faults import Faults
from lema_core.llm.simulated.server import SimulatedEndpoint

CONTROL_FROM = "LEMA_SIMULATED_TOKEN"
"""The environment variable with the token for POST /reset and POST /faults; without it a random one is made."""


def parse_faults(settings: Iterable[str]) -> Faults:
    """Return the faults that ``name=value`` settings describe.

    Raises:
        ConfigError: a setting is malformed, or no fault has its name.
    """
    values = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"the fault {setting!r} has no value: write it as name=value, for example latency_s=0.05")
        values[name.strip()] = value.strip()
    try:
        return Faults.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"fault {place}: {first['msg']}. There are: {', '.join(Faults.model_fields)}") from error


def serve(endpoint: SimulatedEndpoint, started: Callable[[SimulatedEndpoint], None]) -> None:
    """Serve until SIGINT or SIGTERM; ``started`` is called once when the endpoint answers.

    Other users of the machine reach it, so its control routes ask for a token.
    """
    endpoint.control_token = os.environ.get(CONTROL_FROM) or secrets.token_urlsafe(16)
    asyncio.run(_serve(endpoint, started))


async def _serve(endpoint: SimulatedEndpoint, started: Callable[[SimulatedEndpoint], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, stop.set)
    async with endpoint:
        started(endpoint)
        await stop.wait()

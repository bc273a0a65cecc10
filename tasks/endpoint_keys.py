"""Keys kept as Prefect Secret blocks: read where requests are sent, and never handed on as a parameter."""

import os
import re
from collections.abc import Sequence

from prefect.blocks.system import Secret

from lema_core.errors import ConfigError
from lema_core.llm.endpoints import EndpointSpec


async def keys_here(endpoints: Sequence[EndpointSpec]) -> None:
    """Put the keys of endpoints into this process's environment where they are not: a worker has its own.

    Raises:
        ConfigError: there is no such block on the Prefect server.
    """
    for endpoint in endpoints:
        if endpoint.api_key_secret and endpoint.api_key_env not in os.environ:
            await with_key(endpoint)


async def with_key(endpoint: EndpointSpec) -> EndpointSpec:
    """Return the endpoint with its key in this process's environment, where it names a Secret block.

    Raises:
        ConfigError: there is no such block on the Prefect server.
    """
    block = endpoint.api_key_secret
    if block is None:
        return endpoint
    try:
        secret: Secret[str] = await Secret.aload(block)
    except ValueError:
        raise ConfigError(
            f"endpoint {endpoint.name!r} takes its key from the Secret block {block!r}, which the Prefect server "
            "does not have: make it in the UI under Blocks"
        ) from None
    # The suffix keeps it from training runs, which get no keys of model providers.
    variable = f"LEMA_SECRET_{re.sub(r'[^A-Z0-9]', '_', block.upper())}_API_KEY"
    os.environ[variable] = secret.get()
    return endpoint.model_copy(update={"api_key_env": variable})

"""Request parameters as a run file gives them: any field of the chat API, left out by ``"omit"``, and headers.

They come from ``[endpoints.NAME.params]`` and from a stage's own ``params``. A stage's stand above the endpoint's, and
both above the stage's options (``temperature``, ``top_p``, ``max_tokens``).
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, JsonValue

OMIT = "omit"
"""As a parameter's value: it is not sent."""
CAP, LONG_CAP = "max_tokens", "max_completion_tokens"
"""Two names of the most tokens that an answer may have; some models take only the newer one."""
HEADERS = "headers"

MANAGED = frozenset({"messages", "model", "timeout", "extra_headers", "extra_body", "extra_query", "api_key"})
"""Names that the engine sets by itself or never sends; as a parameter they are a mistake."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_SECRET_HEADER = re.compile(r"auth|cookie|token|secret|password|credential|(^|[-_])key($|[-_])|api-?key", re.IGNORECASE)
_OWN_HEADERS = re.compile(
    "host|connection|content-(length|type|encoding)|transfer-encoding|accept|accept-encoding|te|trailer|upgrade|expect|"
    "keep-alive",
    re.IGNORECASE,
)
LONGEST_HEADER = 2000
"""Characters of a header's value."""


class Parameters(dict[str, Any]):
    """Parameters of requests. Hashable, because a frozen endpoint is: never changed after it was made."""

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none
        return hash(json.dumps(self, sort_keys=True, default=str))


def check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return headers that may be sent.

    Raises:
        ValueError: one is no header, is the engine's own, or looks like the place of a key. Run files are stored with
            the artifacts, so a key comes from the environment only (``api_key_env``).
    """
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an HTTP header")
        if _OWN_HEADERS.fullmatch(name):
            raise ValueError(f"the header {name} is set by the engine; remove it")
        if _SECRET_HEADER.search(name):
            raise ValueError(
                f"the header {name} looks like the place of a key, and run files are stored with the artifacts: put "
                "the key into the environment variable that api_key_env names"
            )
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or len(value) > LONGEST_HEADER:
            raise ValueError(f"the header {name} needs a text of up to {LONGEST_HEADER} printable ASCII characters")
    return headers


def _spelled_out(value: object) -> object:
    """Return parameters with the fields of ``extra_body`` among the others, and ``extra_headers`` as ``headers``."""
    if not isinstance(value, Mapping):
        return value
    flat = {str(name): item for name, item in value.items() if name not in {"extra_body", "extra_headers"}}
    body, headers = value.get("extra_body") or {}, value.get("extra_headers") or {}
    if not isinstance(body, Mapping) or not isinstance(headers, Mapping):
        raise ValueError("extra_body and extra_headers are tables")  # noqa: TRY004  pydantic takes ValueErrors
    if twice := sorted(flat.keys() & body.keys()):
        raise ValueError(f"{twice[0]} is given twice, once in extra_body; remove one")
    flat |= body
    if headers:
        flat[HEADERS] = {**(flat.get(HEADERS) or {}), **headers}
    return flat


def _checked(value: dict[str, Any]) -> Parameters:
    # Imported here: requests rests on this module.
    from lema_core.llm.requests import Sampling

    if CAP in value and LONG_CAP in value:
        raise ValueError(f"give {CAP} or {LONG_CAP}, not both: they are two names of one limit")
    if value.get(CAP, value.get(LONG_CAP)) == OMIT:
        # Without a cap no budget can be reserved, and an answer that goes on for ever is paid for.
        raise ValueError(f"{CAP} cannot be left out, because a budget rests on it; give a number")
    # The types of known fields are checked by the model that holds them.
    json.dumps(value, allow_nan=False)
    Sampling.from_params(layered({}, value))
    return Parameters(value)


def _renames(value: dict[str, str]) -> Parameters:
    for name, other in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", other) or other in MANAGED or name in MANAGED:
            raise ValueError(f"{name} = {other!r}: expected another field's name")
    return Parameters(value)


Params = Annotated[dict[str, JsonValue], BeforeValidator(_spelled_out), AfterValidator(_checked)]
Renames = Annotated[dict[str, str], AfterValidator(_renames)]


def layered(base: Mapping[str, Any], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with those of each layer above them; a value of "omit" takes its field away."""
    found = dict(base)
    for layer in layers:
        for name, value in layer.items():
            if name in {CAP, LONG_CAP}:
                # One limit under two names: the later layer's replaces whichever name was there.
                found.pop(CAP, None)
                found.pop(LONG_CAP, None)
            if value is None or value == OMIT:
                found.pop(name, None)
            elif name == HEADERS:
                found[name] = {**found.get(name, {}), **value}
            else:
                found[name] = value
    return found

"""Keys are in nothing that is written or shown."""

import re
from typing import AnyStr


class Redactor:
    """Takes one secret out of what servers say: they repeat what they were sent."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._spellings = _spellings(secret)

    def redacted(self, said: AnyStr) -> AnyStr:
        """Return a text, or a body of JSON, with ``***`` in place of the secret; one of up to four characters stays."""
        if isinstance(said, bytes):
            return self._clean(said)
        return self._clean(said.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def _clean(self, content: bytes) -> bytes:
        if len(self._secret) <= 4:
            return content
        content = content.replace(self._secret.encode(), b"***")
        # Few bodies hold such escapes, and the pattern costs a hundred times the search for them.
        return self._spellings.sub(b"***", content) if b"\\/" in content or b"\\u00" in content else content


def _spellings(key: str) -> re.Pattern[bytes]:
    r"""Return the pattern of a key as JSON may spell it, also JSON within JSON: ``\/`` and ``\u002b``."""
    one = (rf"(?:{re.escape(char)}|\\+(?:{re.escape(char)}|u00(?i:{ord(char):02x})))" for char in key)
    return re.compile("".join(one).encode())

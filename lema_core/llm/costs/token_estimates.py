"""Estimates of a request's tokens before the endpoint has counted them, learned from the answers so far."""

from lema_core.llm.requests import CompletionRequest

CHARS_PER_TOKEN = 4
"""Of English prose and sums, roughly, before any tokenizer has counted."""
UNKNOWN_OUTPUT = 2048
"""Output tokens to reserve for a request without a cap, before any answer."""


class TokenEstimator:
    """Running estimates of one endpoint."""

    def __init__(self) -> None:
        self._chars = self._prompt_tokens = self._answers = self._output = 0
        self._longest = 0

    def observe(self, chars: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Learn from an answer."""
        self._chars += chars
        self._prompt_tokens += prompt_tokens
        self._answers += 1
        self._output += completion_tokens
        self._longest = max(self._longest, completion_tokens)

    def upper_bound(self, chars: int, cap: int | None) -> tuple[float, float]:
        """Return (prompt, output) tokens that a request will hardly exceed. Without a cap the output is a guess."""
        ratio = self._prompt_tokens / self._chars if self._chars else 0.5
        prompt = 1.2 * ratio * chars + 16
        return prompt, float(cap if cap is not None else max(UNKNOWN_OUTPUT, 2 * self._longest))

    def expected(self, chars: int, cap: int | None) -> tuple[float, float]:
        """Return (prompt, output) tokens that a request probably takes."""
        ratio = self._prompt_tokens / self._chars if self._chars else 1 / CHARS_PER_TOKEN
        output = self._output / self._answers if self._answers else 256.0
        return ratio * chars, output if cap is None else min(cap, output)


def prompt_chars(request: CompletionRequest) -> int:
    """Return the length of a request's messages in characters."""
    # Called several times per request: a generator takes twice as long.
    chars = 0
    for message in request.messages:
        content = message.get("content")
        chars += len(content if isinstance(content, str) else str(content))
    return chars

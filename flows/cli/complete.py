"""``lema complete``: the request engine by itself, over a file of requests."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.console import console, errors
from lema_core.system import stopping

if TYPE_CHECKING:
    from lema_core.llm import Budget, EndpointSpec
    from lema_core.llm.request_files import RequestFile, ResultWriter


def complete(
    requests: Annotated[
        Path, typer.Argument(metavar="REQUESTS.jsonl", help="One JSON object a line: id, messages, optional params.")
    ],
    base_url: Annotated[
        list[str],
        typer.Option(
            help="An OpenAI-compatible endpoint, as http://127.0.0.1:8000/v1; given again for each further server of "
            "the same model."
        ),
    ],
    model: Annotated[str, typer.Option(help="The model's name there.")],
    out: Annotated[Path, typer.Option(help="Folder for completions.parquet and rejected.parquet.")],
    concurrency: Annotated[int, typer.Option(min=1, help="Most requests in flight at a time, per server.")] = 64,
    identity: Annotated[
        str,
        typer.Option(
            help="What answers, if the model's name does not say it: enters the requests' keys. {weights}: the hash of "
            "the local weights that --model names."
        ),
    ] = "",
    ledger: Annotated[
        str,
        typer.Option(help="File or postgresql:// URL that keeps paid completions.", show_default="OUT/ledger.sqlite"),
    ] = "",
    api_key_env: Annotated[str, typer.Option(help="Name of the environment variable that holds the key.")] = "",
    budget: Annotated[float, typer.Option(min=0, help="Stop before more dollars are spent; 0: no limit.")] = 0.0,
    budget_tokens: Annotated[int, typer.Option(min=0, help="Stop before more tokens are used; 0: no limit.")] = 0,
    price: Annotated[str, typer.Option(help="Dollars for a million tokens, IN,OUT; default: the price list.")] = "",
    api: Annotated[str, typer.Option(help="openai, or anthropic for Claude's own API (extra: anthropic).")] = "openai",
    transport: Annotated[str, typer.Option(help="http, or batch for the Batch API at half the price.")] = "http",
    wait: Annotated[bool, typer.Option(help="With batch: wait for the answers, or collect with a later run.")] = True,
    attempt_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds an attempt may take.")] = 300.0,
    run: Annotated[str, typer.Option(help="Label for the ledger's totals.")] = "complete",
) -> None:
    """Answer every request of a file, each paid once, into Parquet in the file's order.

    Kill it and repeat it as you like: what was paid is in the ledger and is not paid again. Requests that fail for good
    become rows of rejected.parquet, with a reason; the next run tries only those. Identical requests are sent once. The
    engine finds the rate the endpoint takes by itself and honours Retry-After.

    Example: lema complete requests.jsonl --base-url https://api.openai.com/v1 --model gpt-6-luna --out answers
    --api-key-env OPENAI_API_KEY --budget 5
    """
    from lema_core.errors import EndpointError
    from lema_core.llm.limits.health import no_answer_message
    from lema_core.llm.request_files import RequestFile, ResultWriter, digest, load_finished, require_unchanged

    spec = _spec(
        model=model,
        base_url=base_url,
        api=api,
        identity=identity,
        concurrency=concurrency,
        api_key_env=api_key_env or None,
        transport=transport,
        wait_for_batch=wait,
        attempt_timeout_s=attempt_timeout,
        price=_price(price),
    )
    # Before the file is checked: the finished run checked it, and checking takes longer than reading the answers.
    inputs = {"requests_sha256": digest(requests), "endpoint": spec.identity}
    if manifest := load_finished(out, inputs):
        console.print(f"{manifest['rows']} rows are complete in {out}: 0 requests sent")
        return
    lines = RequestFile(requests)
    with ResultWriter(out, inputs) as writer:
        summary = stopping.run(
            _run(lines, spec, writer, ledger or str(out / "ledger.sqlite"), _budget(budget, budget_tokens), run)
        )
        require_unchanged(requests, inputs["requests_sha256"])
    console.print(summary.text, markup=False)
    for reason, count in sorted(summary.failed.items()):
        console.print(f"  {count} {reason}, such as: {summary.words[reason]}", markup=False)
    if summary.failed and not summary.answered:
        raise EndpointError(no_answer_message(spec.where, summary.failed, summary.words))


async def _run(
    lines: "RequestFile", spec: "EndpointSpec", writer: "ResultWriter", ledger: str, budget: "Budget | None", run: str
) -> "Summary":
    from flows.cli.print_results import live_figures
    from lema_core.llm import Engine, Failure
    from lema_core.llm.costs.prices import money

    ids: Any = _Ids(lines)
    words: dict[str, str] = {}
    empty = 0
    async with Engine.open(ledger=ledger, budget=budget, run=run) as engine:
        try:
            with live_figures(engine):
                async for outcome in engine.stream(spec, ids):
                    writer.add(ids.next_id(), outcome)
                    empty += not isinstance(outcome, Failure) and not outcome.text.strip()
                    if isinstance(outcome, Failure) and outcome.reason != "pending":
                        words[outcome.reason] = outcome.detail
        except BaseException:
            _print_waiting(engine.snapshot().in_flight, spec.attempt_timeout_s)
            raise
        end = engine.snapshot()
    failed = ", ".join(f"{count} {reason}" for reason, count in sorted(writer.reasons.items()))
    cost = "" if end.dollars is None else f", {money(end.dollars)}"
    text = (
        f"{end.done} rows in {writer.folder}: {end.done - end.failures} answered, {end.failures} rejected"
        f"{f' ({failed})' if failed else ''}; {end.completions} bought, {end.from_ledger} from the ledger; "
        f"{end.prompt_tokens + end.completion_tokens} tokens{cost}"
    )
    if empty:
        text += (
            f"\n  {empty} of the answers are empty: where the finish reason is length, the model thought until its "
            "cap. Raise max_tokens or switch thinking off"
        )
    given_up = {reason: count for reason, count in writer.reasons.items() if reason != "pending"}
    return Summary(text, end.done - end.failures, given_up, words)


def _print_waiting(count: int, at_most_s: float) -> None:
    """Print, after a signal or an error, what the command still waits for, and how to end it at once."""
    sign = stopping.stop_signal()
    if sign is signal.SIGTERM:
        at_most_s = min(at_most_s, stopping.grace_seconds())
    if count:
        again = "; another Ctrl-C gives them up" if sign is signal.SIGINT else ""
        errors.print(f"waiting for {count} answers that are under way and paid, at most {at_most_s:.0f} s{again}")


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a file of requests."""

    text: str
    answered: int
    failed: dict[str, int]
    """By reason; requests that wait for a batch are not failures."""
    words: dict[str, str]
    """The endpoint's message for the last failure of each reason."""


class _Ids:
    """The file's requests for the engine; remembers the ids of those whose outcome is awaited."""

    def __init__(self, lines: "RequestFile") -> None:
        from collections import deque

        self._lines = lines
        self._waiting: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Any:
        for line in self._lines:
            self._waiting.append(line.id)
            yield line.request

    def next_id(self) -> str:
        """Return the id of the next outcome."""
        return self._waiting.popleft()


def _spec(**fields: Any) -> "EndpointSpec":
    from lema_core.llm import EndpointSpec
    from lema_core.run.files import of_options

    spec = of_options(EndpointSpec, {"name": "complete", **fields})
    return spec.model_copy(update={"identity": spec.answers_as})


def _price(text: str) -> dict[str, float] | None:
    from lema_core.errors import ConfigError

    if not text:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--price {text!r}: expected dollars for a million tokens as IN,OUT, for example 0.15,0.6"
        ) from None
    return {"input_per_million": low, "output_per_million": high}


def _budget(dollars: float, tokens: int) -> "Budget | None":
    from lema_core.llm import Budget

    return Budget(dollars or None, tokens or None) if dollars or tokens else None

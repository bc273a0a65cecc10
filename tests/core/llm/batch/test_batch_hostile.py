"""A hostile Batch API, one behaviour a trial, two runs each: no request is paid twice without the endpoint's word."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hostile_batches import CUT, SILENT, Behaviour, Hostile, Raw, Status, serving

from lema_core.errors import EndpointError, LemaError
from lema_core.llm import Completion, CompletionRequest, EndpointSpec, Engine, Failure
from lema_core.llm.batch.api import BatchApi
from lema_core.llm.batch.records import forget_batch
from lema_core.llm.batch.replies import BatchReply
from lema_core.llm.batch.result_rows import saved_files
from lema_core.llm.client import Client
from lema_core.llm.ledger.store import LedgerStore
from lema_core.llm.settings import BatchSettings

HASTY = BatchSettings(
    tries=2,
    unreachable_s=0.8,
    listing_s=0.3,
    listings=5,
    reading_s=0.2,
    readings=4,
    pages=20,
    window_s=1.0,
    margin_s=0.5,
    full_s=0.5,
    pause_s=0.05,
    row_bytes=10**6,
)
REQUESTS = 6
LONGEST_S = 40.0
"""Nothing waits longer than its settings allow; the machine may be busy."""
MOST_BYTES = 300 * 10**6
PIECE = b"x" * 2**16


def get(**fields: Any) -> Behaviour:
    """Every look at the batch has these fields."""
    return Behaviour(reply={"get": lambda _server, batch, _n: batch | fields})


def late(times: int, **fields: Any) -> Behaviour:
    """The first looks at the batch have these fields."""
    return Behaviour(reply={"get": lambda _server, batch, n: batch | fields if n <= times else batch})


def response(**fields: Any) -> Behaviour:
    """Every row's response has these fields."""
    return Behaviour(row=lambda row, _index: row | {"response": row["response"] | fields})


def body(change: Any) -> Behaviour:
    """Every row's body is changed."""
    return Behaviour(row=lambda row, _: row | {"response": row["response"] | {"body": change(row["response"]["body"])}})


def choice(**fields: Any) -> Behaviour:
    return body(lambda found: found | {"choices": [found["choices"][0] | fields]})


def row(change: Any, **fields: Any) -> Behaviour:
    return Behaviour(row=change, **fields)


def text(change: Any) -> Behaviour:
    return Behaviour(text=change)


def at(call: str, *wrong: Any) -> Behaviour:
    """The first calls are answered so without doing anything, the later ones well."""
    return Behaviour(before={call: lambda _server, n: wrong[n - 1] if n <= len(wrong) else None})


def always(call: str, wrong: Any) -> Behaviour:
    return Behaviour(before={call: lambda _server, _n: wrong})


def lost(call: str, wrong: Any, times: int = 1, **more: Any) -> Behaviour:
    """The first calls are carried out, and answered so."""
    return Behaviour(reply={call: lambda _s, done, n: wrong if n <= times else done, **more})


def listing(change: Any) -> Behaviour:
    """The reply to the creation is lost, and the list is changed."""
    return lost("create", CUT, list=change)


def entries(change: Any) -> Behaviour:
    return listing(lambda _s, page, _n: page | {"data": [change(entry) for entry in page["data"]]})


def hidden(page: dict[str, Any]) -> dict[str, Any]:
    return page | {"data": []}


def half(index: int) -> bool:
    return index >= REQUESTS // 2


def partial(status: str, code: str = "", **fields: Any) -> Behaviour:
    """Half of the requests are answered; the others have a row with an error of a code, or none."""

    def change(row: dict[str, Any], index: int) -> Any:
        if not half(index):
            return row
        return row | {"response": None, "error": {"code": code, "message": "not done"}} if code else None

    ended = {"get": lambda _s, batch, _n: batch | fields} if fields else {}
    return Behaviour(row=change, errors=lambda row, _: row["error"] is not None, status=status, said=half, reply=ended)


def refusing(errors: Any, **fields: Any) -> Behaviour:
    """Every batch fails before any of its requests."""
    return Behaviour(
        status="failed",
        said=lambda _: True,
        row=lambda *_: None,
        reply={"get": lambda _s, batch, _n: batch | {"errors": errors} | fields},
    )


def draw_failure(error: Any, status: int | None = None) -> Behaviour:
    """Every row is an error."""

    def change(row: dict[str, Any], _index: int) -> Any:
        return row | {"error": error, "response": status and {"status_code": status, "body": {"error": error}}}

    return Behaviour(row=change, errors=lambda *_: True, said=lambda _: True)


def redirect(url: str) -> Status:
    return Status(302, None, {"Location": url})


def endless_list(_server: Hostile, page: dict[str, Any], n: int) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": f"b{n}-{i}", "input_file_id": "x"} for i in range(100)], "has_more": True}


def glued(content: bytes) -> bytes:
    return content.replace(b"\n", b"")


def array(content: bytes, **layout: Any) -> bytes:
    return json.dumps([json.loads(line) for line in content.splitlines()], **layout).encode()


def second_line(change: Any) -> Any:
    def changed(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        return b"".join([lines[0], change(lines[1]), *lines[2:]])

    return changed


OK, STOP, ANY = "answers", "stops", "ends"
FULL = {"object": "list", "data": [{"code": "token_limit_exceeded", "message": "the queue is full"}]}
FULL_REFUSAL = {"error": {"message": "full", "code": "token_limit_exceeded"}}
HTML = b"<html>maintenance</html>"
ENDLESS = Raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", PIECE)
ENDLESS_500 = Raw(b"HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\n\r\n", PIECE)
NO_HTTP = Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
ELSEWHERE = {"custom_id": "nobody's", "response": {"status_code": 200, "body": {}}}

Trial = tuple[Behaviour, str, str]
TRIALS: dict[str, Trial] = {
    # The results cannot be fetched or read: paid once, and the run ends with the words.
    "file 404": (always("file", 404), STOP, STOP),
    "file 404 at first": (at("file", 404, 404), OK, OK),
    "file 500": (always("file", 500), STOP, STOP),
    "file 500 at first": (at("file", 500), OK, OK),
    "file 401": (always("file", 401), STOP, STOP),
    "file 403": (always("file", 403), STOP, STOP),
    "file 410": (always("file", 410), STOP, STOP),
    "file 429": (at("file", 429), OK, OK),
    "file redirected": (
        Behaviour(before={"file": lambda s, _: redirect(f"{s.url}/elsewhere")}), STOP, STOP),
    "file endless": (always("file", ENDLESS), STOP, STOP),
    "file endless 500": (always("file", ENDLESS_500), STOP, STOP),
    "file silent at first": (at("file", SILENT), OK, OK),
    "file cut": (always("file", CUT), STOP, STOP),
    "file cut in the middle": (lost("file", Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")), OK, OK),
    "file no HTTP": (always("file", NO_HTTP), STOP, STOP),
    "file no HTTP at first": (at("file", NO_HTTP), OK, OK),
    "file HTML": (text(lambda _: HTML), STOP, STOP),
    "file empty": (text(lambda _: b""), STOP, STOP),
    "file of blanks": (text(lambda _: b"\n\n \n"), STOP, STOP),
    "file null": (text(lambda _: b"null"), STOP, STOP),
    "file of another batch": (text(lambda _: json.dumps(ELSEWHERE).encode()), STOP, STOP),
    "flap": (Behaviour(reply={"get": lambda _s, b, n: (
        b if n % 2 else b | {"status": "in_progress"}) | {"output_file_id": None}}), STOP, STOP),
    "flap once": (Behaviour(reply={"get": lambda _s, b, n: b | (
        {} if n > 3 else {"output_file_id": None, "status": "in_progress" if n == 2 else "completed"})}), OK, OK),
    "late file": (late(3, output_file_id=None), OK, OK),
    "late file, no counts": (late(3, output_file_id=None, request_counts=None), OK, OK),
    "no file, no counts": (get(output_file_id=None, request_counts=None), STOP, STOP),
    "no file, counts of zero": (get(output_file_id=None, request_counts={"completed": 0, "total": 0}), STOP, STOP),
    "expired without a file, counts late": (
        Behaviour(status="expired", reply={"get": lambda _s, b, n: b | (
            {"output_file_id": None, "request_counts": None} if n <= 3 else {})}), OK, OK),
    "cancelled, file late": (
        Behaviour(status="cancelled", reply={"get": lambda _s, b, n: b | (
            {"output_file_id": None, "request_counts": None} if n <= 3 else {})}), OK, OK),
    "failed with its answers": (Behaviour(status="failed"), OK, OK),
    "expired, file 404": (Behaviour(status="expired", before={"file": lambda *_: 404}), STOP, STOP),
    "cancelled, file 404": (Behaviour(status="cancelled", before={"file": lambda *_: 404}), STOP, STOP),
    "failed, file 404": (Behaviour(status="failed", before={"file": lambda *_: 404}), STOP, STOP),
    "expired, torn": (Behaviour(status="expired", text=second_line(lambda line: line[:40])), STOP, STOP),
    # Names.
    "upper-case ids": (row(lambda r, _: r | {"custom_id": r["custom_id"].upper()}), OK, OK),
    "ids with blanks": (row(lambda r, _: r | {"custom_id": f" {r['custom_id']}\n"}), OK, OK),
    "other ids": (row(lambda r, i: r | {"custom_id": f"request-{i}"}), STOP, STOP),
    "ids null": (row(lambda r, _: r | {"custom_id": None}), STOP, STOP),
    "ids numbers": (row(lambda r, i: r | {"custom_id": i}), STOP, STOP),
    "ids lists": (row(lambda r, _: r | {"custom_id": [r["custom_id"]]}), STOP, STOP),
    "ids missing": (row(lambda r, _: {k: v for k, v in r.items() if k != "custom_id"}), STOP, STOP),
    "one other id": (row(lambda r, i: r | ({"custom_id": "x"} if i == 1 else {})), STOP, STOP),
    # Rows.
    "one row missing": (row(lambda r, i: None if i == 1 else r), STOP, STOP),
    "one row missing, no counts": (
        Behaviour(row=lambda r, i: None if i == 1 else r,
                  reply={"get": lambda _s, b, _n: b | {"request_counts": None}}), STOP, STOP),
    "one row missing at first": (
        Behaviour(reply={"file": lambda _s, c, n: b"".join(c.splitlines(True)[:-1]) if n < 3 else c}), OK, OK),
    "one row doubled": (text(second_line(lambda line: line * 2)), OK, OK),
    "one row answered twice": (text(second_line(lambda line: line + line.replace(b"42", b"43"))), OK, OK),
    "answer and error": (text(second_line(
        lambda line: line + json.dumps(json.loads(line) | {"response": None, "error": {"code": "x"}}).encode() + b"\n")
    ), OK, OK),
    "foreign rows": (text(lambda c: json.dumps(ELSEWHERE).encode() + b"\n" + c), OK, OK),
    "torn row": (text(second_line(lambda line: line[: len(line) // 2] + b"\n")), STOP, STOP),
    "torn end": (text(lambda c: c[:-30]), STOP, STOP),
    "garbled row": (text(second_line(lambda _: b"\xff\xfe\x00garbage\n")), STOP, STOP),
    "bad UTF-8": (text(second_line(lambda line: line.replace(b"42", b"\xff"))), STOP, STOP),
    "other order": (text(lambda c: b"".join(c.splitlines(True)[::-1])), OK, OK),
    "CRLF": (text(lambda c: c.replace(b"\n", b"\r\n")), OK, OK),
    "byte order mark": (text(lambda c: b"\xef\xbb\xbf" + c), OK, OK),
    "UTF-16": (text(lambda c: c.decode().encode("utf-16")), OK, OK),
    "array": (text(array), OK, OK),
    "array over lines": (text(lambda c: array(c, indent=2)), OK, OK),
    "rows over lines": (text(lambda c: b"\n".join(
        json.dumps(json.loads(one), indent=1).encode() for one in c.splitlines())), OK, OK),
    "glued": (text(glued), OK, OK),
    "commas": (text(lambda c: c.replace(b"\n", b",\n")), OK, OK),
    "deep row": (text(second_line(lambda line: line + b"[" * 5000 + b"\n")), OK, OK),
    "long row": (text(lambda c: c + b'{"custom_id": "' + b"y" * 3 * 10**6), OK, OK),
    "rows null": (row(lambda _r, _i: "null"), STOP, STOP),
    "response null": (row(lambda r, _: r | {"response": None}), STOP, STOP),
    "response text": (row(lambda r, _: r | {"response": json.dumps(r["response"])}), OK, OK),
    "response list": (row(lambda r, _: r | {"response": [1]}), STOP, STOP),
    "response without body": (row(lambda r, _: r | {"response": r["response"]["body"]}), OK, OK),
    "body text": (body(json.dumps), OK, OK),
    "body null": (response(body=None), STOP, STOP),
    "body empty": (response(body={}), STOP, STOP),
    "body list": (response(body=[1]), STOP, STOP),
    "body number": (response(body=3), STOP, STOP),
    "body odd": (response(body={"odd": 1}), STOP, STOP),
    "no choices": (response(body={"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}), STOP, STOP),
    "choice null": (response(body={"choices": [None]}), STOP, STOP),
    "choice without message": (response(body={"choices": [{"index": 0}]}), STOP, STOP),
    "status text": (response(status_code="200"), OK, OK),
    "status with words": (response(status_code="200 OK"), OK, OK),
    "status float": (response(status_code=200.0), OK, OK),
    "status true": (response(status_code=True), OK, OK),
    "status 201": (response(status_code=201), OK, OK),
    "row status null": (response(status_code=None), OK, OK),
    "status list": (response(status_code=[200]), OK, OK),
    "error empty beside an answer": (row(lambda r, _: r | {"error": {}}), OK, OK),
    "error beside an answer": (row(lambda r, _: r | {"error": {"code": "warning"}}), OK, OK),
    # What the endpoint says about requests.
    "error in the choice": (Behaviour(
        row=choice(error={"code": 502, "message": "gone"}, finish_reason="error").row, said=lambda _: True), ANY, ANY),
    "error in the body": (Behaviour(
        row=response(body={"error": {"code": 429, "message": "slow down"}}).row, said=lambda _: True), ANY, ANY),
    "rows without a word in the error file": (
        Behaviour(row=lambda r, _: r | {"response": None}, errors=lambda *_: True, said=lambda _: True), ANY, ANY),
    "errors text": (draw_failure("no"), ANY, ANY),
    "errors list": (draw_failure([{"code": "x"}]), ANY, ANY),
    "errors true": (draw_failure(True), ANY, ANY),
    "rows expired": (draw_failure({"code": "batch_expired", "message": "too late"}), ANY, ANY),
    "rows cancelled": (draw_failure({"code": "batch_cancelled", "message": "stopped"}), STOP, STOP),
    "rows without quota": (draw_failure({"code": "insufficient_quota", "message": "pay"}), STOP, STOP),
    "rows 500": (draw_failure({"message": "x"}, 500), ANY, ANY),
    "rows 401": (draw_failure({"message": "x"}, 401), STOP, STOP),
    "half expired, named": (partial("expired", "batch_expired"), ANY, ANY),
    "half expired, unnamed": (partial("expired"), ANY, ANY),
    "half expired, unnamed, no counts": (partial("expired", request_counts=None), ANY, ANY),
    "half expired, counts say more": (
        Behaviour(row=partial("").row, status="expired",
                  reply={"get": lambda _s, b, _n: b | {"request_counts": {"completed": 6}}}), STOP, STOP),
    "half cancelled, named": (partial("cancelled", "batch_cancelled"), STOP, ANY),
    "half cancelled, unnamed": (partial("canceled"), STOP, ANY),
    "half cancelled by expiry": (partial("cancelled", expired_at=1700000000), ANY, ANY),
    "half failed": (partial("failed"), STOP, ANY),
    "failed": (refusing({"data": [{"code": "invalid_json", "message": "bad line"}]}), STOP, STOP),
    "queue full for ever": (refusing(FULL), STOP, STOP),
    "queue full, errors a text": (refusing("token_limit_exceeded: full"), STOP, STOP),
    "queue full at creation": (always("create", Status(400, FULL_REFUSAL)), STOP, STOP),
    # Types of every field.
    "errors a list": (get(errors=["x"]), OK, OK),
    "errors a text ": (get(errors="text"), OK, OK),
    "errors with null": (get(errors={"data": [None]}), OK, OK),
    "errors of texts": (get(errors={"data": ["text"]}), OK, OK),
    "errors deep": (get(errors={"data": [[[[[["x"]]]]]]}), OK, OK),
    "failed, errors a list": (refusing(["x"]), STOP, STOP),
    "failed, errors a number": (refusing(5), STOP, STOP),
    "failed, no errors": (refusing(None), STOP, STOP),
    "metadata a list": (get(metadata=["x"]), OK, OK),
    "counts a list": (get(request_counts=[1]), OK, OK),
    "counts texts": (get(request_counts={"completed": "6", "total": "6"}), OK, OK),
    "counts too high": (get(request_counts={"completed": 7, "total": 7}), OK, OK),
    "counts negative": (get(request_counts={"completed": -1}), OK, OK),
    "counts huge": (get(request_counts={"completed": 10**40}), OK, OK),
    "file ids in a list": (Behaviour(reply={"get": lambda _s, b, _n: b | {
        "output_file_id": [b["output_file_id"]]}}), OK, OK),
    "file id in an object": (Behaviour(reply={"get": lambda _s, b, _n: b | {
        "output_file_id": {"id": b["output_file_id"]}}}), OK, OK),
    "file id true": (get(output_file_id=True), STOP, STOP),
    "file id as a path": (get(output_file_id="../../x?y#z"), STOP, STOP),
    "the output as the error file": (Behaviour(reply={"get": lambda _s, b, _n: b | {
        "error_file_id": b["output_file_id"], "output_file_id": None}}), OK, OK),
    "id missing": (Behaviour(reply={"get": lambda _s, b, _n: {k: v for k, v in b.items() if k != "id"}}), OK, OK),
    "id a number": (get(id=5), OK, OK),
    "status in capitals": (get(status="COMPLETED"), OK, OK),
    "reply deep": (lost("get", b'{"status":' + b"[" * 100_000), OK, OK),
    "reply no object": (lost("get", b'["completed"]'), OK, OK),
    "reply HTML": (lost("get", HTML), OK, OK),
    "reply HTML for ever": (lost("get", HTML, 10**6), STOP, STOP),
    "reply no HTTP": (at("get", NO_HTTP), OK, OK),
    "reply no HTTP for ever": (always("get", NO_HTTP), STOP, STOP),
    "reply endless": (always("get", ENDLESS), STOP, STOP),
    "reply endless 500": (always("get", ENDLESS_500), STOP, STOP),
    "look 500": (at("get", 500), OK, OK),
    "look 401": (always("get", 401), STOP, STOP),
    "look 404": (at("get", 404, 404), OK, OK),
    "look 404 for ever": (Behaviour(before={"get": lambda *_: 404, "list": lambda *_: 404}), STOP, STOP),
    # Waiting.
    "validating for ever": (get(status="validating"), STOP, STOP),
    "a status that the API does not have": (get(status="pondering"), STOP, STOP),
    "status null": (get(status=None), STOP, STOP),
    "status a list ": (get(status=["completed"]), STOP, STOP),
    "status a number": (get(status=3), STOP, STOP),
    "status with terminal codes": (get(status="\x1b[31mred\ud800"), STOP, STOP),
    "finalizing, then completed": (late(3, status="finalizing"), OK, OK),
    # Uploads and creations.
    "upload lost": (lost("upload", CUT), OK, OK),
    "upload 500": (at("upload", 500), OK, OK),
    "upload 413": (always("upload", 413), STOP, STOP),
    "upload HTML": (lost("upload", HTML), OK, OK),
    "upload without id": (lost("upload", {"object": "file"}), OK, OK),
    "upload no HTTP": (at("upload", NO_HTTP), OK, OK),
    "upload redirected": (Behaviour(before={"upload": lambda s, _: redirect(f"{s.url}/x")}), STOP, STOP),
    "create lost": (lost("create", CUT), OK, OK),
    "create silent": (lost("create", SILENT), OK, OK),
    "create HTML": (lost("create", HTML), OK, OK),
    "create without id": (lost("create", {"object": "batch"}), OK, OK),
    "create with id null": (lost("create", {"id": None}), OK, OK),
    "create no HTTP": (lost("create", NO_HTTP), OK, OK),
    "create endless": (lost("create", ENDLESS), OK, OK),
    "create 500, made": (lost("create", 500), OK, OK),
    "create 502, made": (lost("create", 502), OK, OK),
    "create 503, made": (lost("create", 503), OK, OK),
    "create 504, made": (lost("create", 504), OK, OK),
    "create 400, made": (lost("create", 400), OK, OK),
    "create 409, made": (lost("create", 409), OK, OK),
    "create 429, made": (lost("create", 429), OK, OK),
    "create cut, not made": (at("create", CUT), OK, OK),
    "create 500, not made": (at("create", 500), OK, OK),
    "create 503, not made": (at("create", 503, 503), OK, OK),
    "create 429, not made": (at("create", 429), OK, OK),
    "create 400": (always("create", 400), STOP, STOP),
    "create id a number": (Behaviour(reply={"create": lambda _s, b, _n: b | {"id": 7}, "get": lambda s, b, _n:
        b if isinstance(b, dict) else s.batches["batch_1"]}), OK, OK),
    "list lags": (listing(lambda _s, page, n: hidden(page) if n < 2 else page), OK, OK),
    "list lags more": (listing(lambda _s, page, n: hidden(page) if n < 5 else page), OK, OK),
    "500, made, list lags": (lost("create", 500, list=lambda _s, p, n: hidden(p) if n < 3 else p), OK, OK),
    "list without metadata": (entries(lambda e: e | {"metadata": None}), OK, OK),
    "list with empty metadata": (entries(lambda e: e | {"metadata": {}}), OK, OK),
    "list with metadata a text": (entries(lambda e: e | {"metadata": "x"}), OK, OK),
    "list with metadata a list": (entries(lambda e: e | {"metadata": ["x"]}), OK, OK),
    "list with metadata as JSON": (entries(lambda e: e | {"metadata": json.dumps(e["metadata"])}), OK, OK),
    "list without files": (entries(lambda e: {k: v for k, v in e.items() if k != "input_file_id"}), OK, OK),
    "list of ids": (entries(lambda e: e["id"]), OK, OK),
    "list of bare ids": (entries(lambda e: {"id": e["id"]}), OK, OK),
    "list with null": (listing(lambda _s, page, _n: page | {"data": [None, *page["data"]]}), OK, OK),
    "list of null": (listing(lambda _s, page, _n: page | {"data": [None]}), STOP, STOP),
    "list a text": (listing(lambda _s, page, n: page | {"data": "x"} if n < 2 else page), OK, OK),
    "list 404": (listing(lambda *_: 404), STOP, STOP),
    "list 501": (listing(lambda *_: 501), STOP, STOP),
    "list 500": (listing(lambda *_: 500), STOP, STOP),
    "list 500 at first": (listing(lambda _s, page, n: 500 if n < 2 else page), OK, OK),
    "list HTML": (listing(lambda *_: HTML), STOP, STOP),
    "list no HTTP": (listing(lambda *_: NO_HTTP), STOP, STOP),
    "list endless reply": (listing(lambda *_: ENDLESS), STOP, STOP),
    "list loops": (listing(lambda _s, page, _n: page | {"has_more": True}), OK, OK),
    "list loops without ours": (listing(lambda _s, page, _n: page | {"data": [{"id": "a", "input_file_id": "x"}],
                                                               "has_more": True}), STOP, STOP),
    "list loops, empty": (listing(lambda _s, page, _n: hidden(page) | {"has_more": True}), STOP, STOP),
    "list without end": (listing(endless_list), STOP, STOP),
    "list without end or names": (
        listing(lambda _s, _page, n: {"data": [{"id": f"b{n}"}], "has_more": True}), STOP, STOP),
}  # fmt: skip


async def run(endpoint: Hostile, ledger: str, said: set[str]) -> str:
    """Ask for everything; return how that ended. ``said`` takes what was shown of waiting batches."""
    spec = spec_of(endpoint)
    requests = [request(index) for index in range(REQUESTS)]

    async def watch(engine: Engine) -> None:
        while True:
            said.update(filter(None, [engine.snapshot().batch]))
            await asyncio.sleep(0.05)

    try:
        async with asyncio.timeout(LONGEST_S), Engine.open(ledger=ledger, run="hostile") as engine:
            watching = asyncio.create_task(watch(engine))
            try:
                outcomes = [outcome async for outcome in engine.stream(spec, requests)]
            finally:
                watching.cancel()
    except LemaError:
        return STOP
    except TimeoutError:
        return "waits for ever"
    except Exception as error:  # noqa: BLE001 - that is what the trials look for
        return f"{type(error).__name__}: {error}"
    return OK if all(isinstance(one, Completion) for one in outcomes) else ANY


def spec_of(endpoint: Hostile, **settings: Any) -> EndpointSpec:
    return EndpointSpec(
        model="m",
        base_url=endpoint.url,
        transport="batch",
        batch_poll_s=0.02,
        attempt_timeout_s=0.5,
        batches=HASTY.model_copy(update=settings),
    )


def request(index: int) -> CompletionRequest:
    return CompletionRequest(({"role": "user", "content": f"question {index}"},))


async def trial(name: str, folder: Path) -> list[str]:
    """Return what is wrong with two runs against a behaviour."""
    behaviour, *expected = TRIALS[name]
    ledger, said, wrong = str(folder / "ledger.sqlite"), set[str](), []
    async with serving(behaviour) as endpoint:
        for number, wanted in enumerate(expected, 1):
            found = await run(endpoint, ledger, said)
            if found != wanted and not (wanted == ANY and found in {OK, STOP}):
                wrong.append(f"run {number}: {found} instead of {wanted}")
        if twice := {key: count for key, count in endpoint.billed.items() if count > 1}:
            wrong.append(f"paid more than once: {len(twice)} of {REQUESTS}, {max(twice.values())} times")
        if endpoint.batches and STOP in expected and "for ever" in name and not said:
            wrong.append("nothing was said while it waited")
    return wrong


@pytest.mark.slow
async def test_no_behaviour_makes_us_pay_twice_or_end_with_a_traceback(tmp_path: Path) -> None:
    turns, failed = asyncio.Semaphore(8), dict[str, list[str]]()
    before, most = resident_bytes(), 0

    async def take(name: str, folder: Path) -> None:
        nonlocal most
        async with turns:
            if wrong := await trial(name, folder):
                failed[name] = wrong
            most = max(most, resident_bytes())

    folders = {name: tmp_path / str(index) for index, name in enumerate(TRIALS)}
    for folder in folders.values():
        folder.mkdir()
    await asyncio.gather(*(take(*item) for item in folders.items()))
    assert failed == {}
    assert len(TRIALS) >= 80
    assert most - before < MOST_BYTES


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


PROGRAM = """
import asyncio, sys
from lema_core.llm import CompletionRequest, EndpointSpec, Engine, Failure

async def main(spec, ledger, count):
    requests = [CompletionRequest(({"role": "user", "content": f"question {index}"},)) for index in range(count)]
    async with Engine.open(ledger=ledger, run="hostile") as engine:
        async for outcome in engine.stream(spec, requests):
            pass

asyncio.run(main(EndpointSpec.model_validate_json(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""
CALLS = ("upload", "create", "get", "file")


@pytest.mark.parametrize("moment", [f"{call} {when}" for call in CALLS for when in ("arrived", "done")])
async def test_a_kill_at_any_moment_pays_once(moment: str, tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    async with serving(Behaviour()) as endpoint:
        words = [sys.executable, "-c", PROGRAM, spec_of(endpoint).model_dump_json(), ledger, str(REQUESTS)]
        process = await asyncio.create_subprocess_exec(*words)

        def kill(now: str) -> bool:
            if now == moment and process.returncode is None:
                os.kill(process.pid, signal.SIGKILL)
                return True
            return False

        endpoint.reached = kill
        assert await process.wait() == -signal.SIGKILL
        endpoint.reached = lambda _moment: False
        assert await run(endpoint, ledger, set()) == OK
        assert set(endpoint.billed.values()) == {1}
        assert len(endpoint.billed) == REQUESTS
        assert saved_files(tmp_path / "batch-results", "*") == []


async def test_what_could_not_be_read_is_kept_and_paid_again_only_when_given_up(tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    behaviour = text(second_line(lambda line: line[:60] + b"\n"))
    async with serving(behaviour) as endpoint:
        spec, requests = spec_of(endpoint), [request(index) for index in range(REQUESTS)]
        for _ in range(2):
            async with Engine.open(ledger=ledger, run="hostile") as engine:
                with pytest.raises(EndpointError, match=r"line 2 of .* is no JSON: '\{\"id\"") as caught:
                    [one async for one in engine.stream(spec, requests)]
        (kept,) = (tmp_path / "batch-results").glob("*.jsonl")
        assert str(kept) in str(caught.value)
        assert kept.read_bytes() == endpoint.files["batch_1-out"]
        assert len(LedgerStore(ledger).database.query("SELECT key FROM completions")) == REQUESTS - 1
        # The file is gone at the endpoint, and a person mends the copy: nothing is paid again.
        endpoint.behaviour = always("file", 404)
        good = Hostile(Behaviour())
        good.files["in"] = endpoint.files["file-1"]
        good.make({"input_file_id": "in", "metadata": None})
        copy = kept.read_bytes()
        kept.write_bytes(good.files["batch_1-out"])
        assert await run(endpoint, ledger, set()) == OK
        assert set(endpoint.billed.values()) == {1}
        assert not kept.exists()
        assert copy


async def test_giving_a_batch_up_pays_for_what_it_lacks_only(tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    async with serving(row(lambda r, i: None if i == 1 else r)) as endpoint:
        assert await run(endpoint, ledger, set()) == STOP
        ((batch,),) = LedgerStore(ledger).database.query("SELECT id FROM batches")
        endpoint.behaviour = Behaviour()
        assert await run(endpoint, ledger, set()) == STOP
        assert forget_batch(LedgerStore(ledger), batch) == 1
        assert await run(endpoint, ledger, set()) == OK
        assert sorted(endpoint.billed.values()) == [1] * (REQUESTS - 1) + [2]


async def test_a_waiting_batch_is_named_with_its_status_and_age(tmp_path: Path, caplog: Any) -> None:
    said = set[str]()
    async with serving(get(status="in_validation")) as endpoint:
        assert await run(endpoint, str(tmp_path / "ledger.sqlite"), said) == STOP
    assert any(words.startswith("batch_1 in_validation for 0:0") for words in said)
    async with serving(refusing(FULL)) as endpoint:
        assert await run(endpoint, str(tmp_path / "other.sqlite"), said) == STOP
    assert [record.message for record in caplog.records if "the queue is full" in record.message]
    assert any("queue full" in words for words in said)


async def test_a_full_queue_leaves_requests_to_a_later_run_where_this_one_does_not_wait(tmp_path: Path) -> None:
    async with serving(always("create", Status(400, FULL_REFUSAL))) as endpoint:
        spec = spec_of(endpoint).model_copy(update={"wait_for_batch": False})
        async with Engine.open(ledger=str(tmp_path / "ledger.sqlite"), run="hostile") as engine:
            outcomes = [one async for one in engine.stream(spec, [request(index) for index in range(4)])]
    assert {(one.reason, "queue is full" in one.detail) for one in outcomes if isinstance(one, Failure)} == {
        ("pending", True)
    }
    assert len(outcomes) == 4


async def test_a_creation_in_doubt_is_said_and_recorded(tmp_path: Path, caplog: Any) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    async with serving(at("create", CUT)) as endpoint:
        assert await run(endpoint, ledger, set()) == OK
        ((batch, file),) = LedgerStore(ledger).database.query("SELECT batch, input_file FROM batch_creations")
        assert file == "file-1"
        (said,) = [record.message for record in caplog.records if "created again" in record.message]
        assert batch in said


async def test_answers_given_twice_are_said_and_counted(tmp_path: Path, caplog: Any) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    async with serving(TRIALS["one row answered twice"][0]) as endpoint:
        assert await run(endpoint, ledger, set()) == OK
    assert [record.message for record in caplog.records if "answers 1 requests more than once" in record.message]
    query = LedgerStore(ledger).database.query
    assert query("SELECT reason, count, completion_tokens FROM failures") == [("duplicate", 1, 10)]
    assert query("SELECT DISTINCT answer FROM completions") == [(b"42",)]


async def test_the_endpoints_words_are_kept_as_they_are(tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    async with serving(draw_failure({"code": "batch_expired", "message": "too late"})) as endpoint:
        assert await run(endpoint, ledger, set()) == ANY
        assert max(endpoint.calls[call] for call in ("create", "upload")) == 5
    found = LedgerStore(ledger).database.query("SELECT DISTINCT reason, detail FROM failures")
    assert found == [("expired", "batch_expired: too late")]


async def test_reading_results_leaves_the_event_loop_to_others(tmp_path: Path) -> None:
    behaviour = row(lambda r, _i: r | {"padding": "x" * 3000})
    async with serving(behaviour) as endpoint:
        endpoint.files["in"] = b"".join(b'{"custom_id": "%d"}\n' % index for index in range(20_000))
        endpoint.make({"input_file_id": "in", "metadata": None})
        client = Client(spec_of(endpoint))
        api = BatchApi(client, 30.0, tmp_path, HASTY.model_copy(update={"row_bytes": 10**6}))
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            while True:
                before = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - before)

        reply = BatchReply.read(endpoint.batches["batch_1"], "status")
        ticking = asyncio.create_task(tick())
        names = {str(index) for index in range(20_000)}
        (_, files) = await api.results("b", "batch_1", reply, names) or (None, None)
        ticking.cancel()
        assert files is not None
        assert files.missing_keys() == []
        # CPU seconds of the loop's own thread: 60 MB of JSON take a second of it where they are parsed there.
        assert longest < 0.3
        files.close()
        await client.close()

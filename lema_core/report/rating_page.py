"""The page on which a rater reads the pairs of a pilot, one at a time, and rates them with the keys 1, 2 and 3.

One process serves one rater on loopback. The page keeps nothing: what was rated is read from the sheet, so a reload,
a second tab or a restart goes on where the rater was. Only requests of its own pages may rate: the host name must be
the machine's own, and a rating comes as JSON, which another site's page may not send.
"""

from typing import Annotated, Literal

from fastapi import FastAPI, HTTPException, Path
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel

from lema_core.report.pairs import pair_of
from lema_core.report.rating import RATINGS, RatingSheet, summarise
from lema_core.report.render import environment

__all__ = ["rating_app"]

MEANINGS = {
    "excellent": "The step is the first wrong one, the reason is right, the corrected steps continue the earlier ones.",
    "good": "Step and reason are right; the corrected steps break a little with the earlier ones.",
    "poor": "The step or the reason is wrong.",
}


class Verdict(BaseModel):
    """A rating as the page sends it."""

    rating: Literal["excellent", "good", "poor"]


def rating_app(sheet: RatingSheet) -> FastAPI:
    """Return the web application around one rater's sheet."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    last = len(sheet.pairs)

    @app.get("/")
    async def start() -> RedirectResponse:
        number = sheet.next_unrated()
        return RedirectResponse("/done" if number is None else f"/pair/{number + 1}")

    @app.get("/pair/{number}")
    async def pair(number: Annotated[int, Path(ge=1)]) -> HTMLResponse:
        if number > last:
            raise HTTPException(404, f"there are {last} pairs")
        return HTMLResponse(_pair_page(sheet, number - 1))

    @app.post("/pair/{number}")
    async def rate(number: Annotated[int, Path(ge=1)], verdict: Verdict) -> dict[str, str]:
        if number > last:
            raise HTTPException(404, f"there are {last} pairs")
        sheet.rate(number - 1, verdict.rating)
        following = sheet.next_unrated(number - 1)
        return {"next": "/done" if following is None else f"/pair/{following + 1}"}

    @app.get("/done")
    async def done() -> HTMLResponse:
        return HTMLResponse(_done_page(sheet))

    return app


def _pair_page(sheet: RatingSheet, position: int) -> str:
    return (
        environment()
        .get_template("rating.html.j2")
        .render(
            pair=pair_of(sheet.pairs[position]),
            number=position + 1,
            ratings=[sheet.rating(i) for i in range(len(sheet.pairs))],
            current=sheet.rating(position),
            rater=sheet.rater,
            meanings=MEANINGS,
        )
    )


def _done_page(sheet: RatingSheet) -> str:
    complete = sheet.rated == len(sheet.pairs)
    # Before the end a rater must not see what the others said.
    summary = summarise(sheet.folder) if complete else None
    return (
        environment()
        .get_template("rated.html.j2")
        .render(sheet=sheet, summary=summary, ratings=RATINGS, total=len(sheet.pairs))
    )

"""The page on which a rater reads the pairs of a pilot, one at a time, and rates them with the keys 1, 2 and 3.

One process serves one rater on loopback. The page keeps nothing: what was rated is read from the sheet, so a reload,
a second tab or a restart goes on where the rater was. Only its own pages may rate (``lema_core.system.loopback``),
and all its addresses begin with a secret, without which other users of the machine see nothing.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, FastAPI, HTTPException, Path
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel

from lema_core.rating.pilot import RATINGS, RatingSheet, summarize_ratings
from lema_core.report.render import align_correction, template_environment
from lema_core.system.loopback import FilteredApp, RequestFilter

__all__ = ["rating_app"]

MEANINGS = {
    "excellent": "The step is the first wrong one, the reason is right, the corrected steps continue the earlier ones.",
    "good": "Step and reason are right; the corrected steps break a little with the earlier ones.",
    "poor": "The step or the reason is wrong.",
}


class Verdict(BaseModel):
    """A rating as the page sends it."""

    rating: Literal["excellent", "good", "poor"]


def rating_app(sheet: RatingSheet, secret: str = "") -> FilteredApp:
    """Return the web application around one rater's sheet; its paths begin with the secret, if there is one."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    base = f"/{secret}" if secret else ""
    app.include_router(_routes(sheet, base), prefix=base)
    return FilteredApp(app, RequestFilter())


def _routes(sheet: RatingSheet, base: str) -> APIRouter:
    router = APIRouter()
    last = len(sheet.pairs)

    @router.get("/")
    async def start() -> RedirectResponse:
        number = sheet.next_unrated()
        return RedirectResponse(f"{base}/done" if number is None else f"{base}/pair/{number + 1}")

    @router.get("/pair/{number}")
    async def pair(number: Annotated[int, Path(ge=1)]) -> HTMLResponse:
        if number > last:
            raise HTTPException(404, f"there are {last} pairs")
        return HTMLResponse(_pair_page(sheet, number - 1, base))

    @router.post("/pair/{number}")
    async def rate(number: Annotated[int, Path(ge=1)], verdict: Verdict) -> dict[str, str]:
        if number > last:
            raise HTTPException(404, f"there are {last} pairs")
        sheet.rate(number - 1, verdict.rating)
        following = sheet.next_unrated(number - 1)
        return {"next": f"{base}/done" if following is None else f"{base}/pair/{following + 1}"}

    @router.get("/done")
    async def done() -> HTMLResponse:
        complete = sheet.rated == len(sheet.pairs)
        # Before the end a rater must not see the others' ratings.
        summary = summarize_ratings(sheet.folder) if complete else None
        return HTMLResponse(
            template_environment()
            .get_template("rated.html.j2")
            .render(sheet=sheet, summary=summary, ratings=RATINGS, total=len(sheet.pairs), base=base)
        )

    return router


def _pair_page(sheet: RatingSheet, position: int, base: str) -> str:
    return (
        template_environment()
        .get_template("rating.html.j2")
        .render(
            pair=align_correction(sheet.pairs[position]),
            number=position + 1,
            ratings=[sheet.rating(i) for i in range(len(sheet.pairs))],
            current=sheet.rating(position),
            rater=sheet.rater,
            meanings=MEANINGS,
            base=base,
        )
    )

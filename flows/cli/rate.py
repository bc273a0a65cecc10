"""``lema rate``: a page on which a person rates a drawn pilot of corrections before the rest is paid for."""

import secrets
import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.console import console

if TYPE_CHECKING:
    from lema_core.rating.pilot import PilotSummary, RatingSheet


def rate(
    corrections: Annotated[
        str,
        typer.Argument(
            metavar="CORRECTIONS",
            help="A Parquet file of corrections, or their artifact's folder (.lema/store/corrections/...), or a URL.",
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder that keeps the drawn pairs and the ratings.")],
    rater: Annotated[str, typer.Option(help="Who rates; each rater has a file of their own.")],
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs to draw.")] = 50,
    seed: Annotated[int, typer.Option(help="Draws other pairs.")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Rate a drawn pilot of corrections in the browser: 1 excellent, 2 good, 3 poor.

    The paper did this with 50 pairs before it let the corrector loose on the rest. Every rating is on disk at once: end
    the command with Ctrl-C and go on later. A second rater uses the same --out and another --rater, and sees the first
    one's ratings only when done; the agreement (Cohen's kappa) is printed at the end.
    """
    from lema_core.rating.pilot import RatingSheet, draw_pilot, read_corrections, summarize_ratings

    sheet = RatingSheet(out, rater, draw_pilot(read_corrections(corrections), pairs, seed))
    _serve(sheet, port, open_page=browser)
    _print(summarize_ratings(out))


def _serve(sheet: "RatingSheet", port: int, *, open_page: bool) -> None:
    import uvicorn

    from lema_core.rating.page import rating_app
    from lema_core.system.loopback import free_port

    port, secret = port or free_port(), secrets.token_urlsafe(16)
    url = f"http://127.0.0.1:{port}/{secret}/"
    console.print(f"rate {len(sheet.pairs)} pairs at {url} ({sheet.rated} done); Ctrl-C ends")
    with tempfile.TemporaryDirectory(prefix="lema-rate-") as folder:
        if open_page:
            # Every user can list the arguments of the browser that this starts, so they name a file that only we can
            # read, and the file leads to the address.
            page = Path(folder) / "open.html"
            page.write_text(f'<meta http-equiv="refresh" content="0; url={url}">', encoding="utf-8")
            webbrowser.open(page.as_uri())
        uvicorn.run(rating_app(sheet, secret), host="127.0.0.1", port=port, log_level="warning", access_log=False)


def _print(summary: "PilotSummary") -> None:
    from rich.table import Table

    from lema_core.rating.pilot import RATINGS

    table = Table("rater", *RATINGS, "of", box=None, header_style="bold")
    for rater, counts in summary.by_rater.items():
        table.add_row(rater, *(str(counts[name]) for name in RATINGS), str(summary.pairs))
    console.print(table)
    for (first, second), found in summary.agreement.items():
        console.print(
            f"{first} and {second}: the same word for {found.share_equal:.0%} of {found.n} pairs; "
            f"kappa {found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
        )

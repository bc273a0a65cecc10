"""The pages in a real browser: what only a browser can tell."""

import re
import runpy
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lema_core.artifacts.parquet import table_of
from lema_core.records import Correction
from lema_core.report import render_html

SAMPLES = Path(__file__).parents[1] / "core" / "report" / "conftest.py"
PHONE = {"width": 360, "height": 740}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def samples():
    return runpy.run_path(str(SAMPLES))


@pytest.fixture
def corrections(samples, tmp_path):
    rows = [samples["correction"](i, *samples["PAIRS"][i % 3]) for i in range(4)]
    file = tmp_path / "corrections.parquet"
    pq.write_table(table_of(rows, Correction), file)
    return file


@contextmanager
def rating_server(corrections, out, rater):
    """Run ``lema rate`` as a user does; yield its address and the process."""
    command = [sys.executable, "-c", "from flows.cli import app; app()", "rate", str(corrections)]
    options = ["--out", str(out), "--rater", rater, "--no-browser"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            yield re.search(r"http://127\.0\.0\.1:\d+/\S+/", line).group(0), process
        finally:
            process.send_signal(signal.SIGINT)


def open_when_up(page, url):
    # The address is printed just before the server listens.
    for _ in range(100):
        try:
            return page.goto(url)
        except Exception as error:
            if "ERR_CONNECTION_REFUSED" not in str(error):
                raise
            page.wait_for_timeout(100)
    raise AssertionError(f"{url} never answered")


def strip(page):
    """The ratings shown on the page: one letter a pair."""
    classes = [link.get_attribute("class") for link in page.locator(".strip a").all()]
    return "".join((c.replace("here", "").strip() or "-")[0] for c in classes)


def test_ratings_by_keyboard_survive_a_reload_and_a_killed_server(browser, corrections, tmp_path):
    page, out = browser.new_page(), tmp_path / "pilot"
    with rating_server(corrections, out, "anna") as (url, process):
        open_when_up(page, url)
        for number, key in ((1, "1"), (2, "3"), (3, "2")):
            page.wait_for_url(f"**/pair/{number}")
            page.keyboard.press(key)
        page.wait_for_url("**/pair/4")
        page.reload()
        assert strip(page) == "epg-"
        process.kill()
        process.wait()
    assert pq.read_table(out / "ratings-anna.parquet")["rating"].to_pylist() == ["excellent", "poor", "good"]
    with rating_server(corrections, out, "anna") as (url, _):
        open_when_up(page, url)
        assert page.url.endswith("/pair/4")
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**/pair/3")
        assert page.locator("[aria-pressed=true]").get_attribute("data-rating") == "good"
        page.screenshot(path=tmp_path / "rating.png")
    page.close()


def test_the_second_rater_sees_the_agreement_at_the_end(browser, corrections, tmp_path):
    out = tmp_path / "pilot"
    for rater, keys in (("anna", "1123"), ("ben", "1133")):
        page = browser.new_page()
        with rating_server(corrections, out, rater) as (url, _):
            open_when_up(page, url)
            for number, key in enumerate(keys, start=1):
                page.wait_for_url(f"**/pair/{number}")
                page.keyboard.press(key)
            page.wait_for_url("**/done")
            text = page.locator("main").inner_text()
            page.close()
    assert "anna and ben" in text
    assert "75" in text


def test_a_rating_that_could_not_be_saved_is_said(browser, corrections, tmp_path):
    page = browser.new_page()
    with rating_server(corrections, tmp_path / "pilot", "anna") as (url, process):
        open_when_up(page, url)
        process.kill()
        process.wait()
        page.keyboard.press("1")
        page.wait_for_function("document.getElementById('trouble').textContent.includes('Not saved')")
        assert page.url.endswith("/pair/1")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, {"width": 1280, "height": 900}], ids=["phone", "desktop"])
def test_the_report_fits_the_screen_and_asks_for_nothing(browser, samples, tmp_path, scheme, size):
    file = tmp_path / "report.html"
    file.write_text(render_html(samples["sample_data"]()), encoding="utf-8")
    page = browser.new_page(viewport=size, color_scheme=scheme)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(file.as_uri())
    assert asked == [file.as_uri()]
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    paper, ink = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (paper, ink)]
    assert (brightness[0] > brightness[1]) == (scheme == "light")
    page.screenshot(path=tmp_path / "report.png", full_page=True)
    page.close()

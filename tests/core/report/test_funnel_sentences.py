"""No sentence about the funnel is false, whatever was refused, failed, unparsable or rejected."""

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lema_core.artifacts.manifest import Manifest
from lema_core.report import Funnel, ReportData, render_html, render_markdown, summarize
from lema_core.report.data import Asked, EarlyEnd

FEW = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 5000))


@st.composite
def funnels(draw) -> Funnel:
    """Draw a funnel as a run makes it: each step works on what the one before kept."""
    questions, samples, tries = draw(FEW), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    sampled = _asked(draw, questions * samples)
    paths = sampled.kept
    right = draw(st.integers(0, paths))
    mistakes = draw(st.integers(0, paths - right))
    tried = _asked(draw, mistakes * tries) if draw(st.booleans()) or mistakes else None
    corrected = draw(st.integers(min(1, tried.kept), min(mistakes, tried.kept))) if tried else 0
    return Funnel(
        questions=questions, paths=paths, verdicts={"right": right, "wrong": paths - right}, mistakes=mistakes,
        corrections=tried.total if tried else 0, accepted=tried.kept if tried else 0, corrected=corrected,
        sampled=sampled, tried=tried,
    )  # fmt: skip


def _asked(draw, total: int) -> Asked:
    cuts = sorted(draw(st.lists(st.sampled_from([0, total, total // 2, total // 3]), min_size=4, max_size=4)))
    parts = [high - low for low, high in zip([0, *cuts], [*cuts, total], strict=True)]
    return Asked(
        **dict(zip(draw(st.permutations(["refused", "failed", "unusable", "rejected", "kept"])), parts, strict=True))
    )


def numbers(text: str) -> list[int]:
    return [int(found.replace(",", "")) for found in re.findall(r"\d[\d,]*", text)]


@given(funnels())
def test_sentences_of_any_funnel_are_true(funnel) -> None:
    corrector = "teacher" if funnel.tried else "none"
    data = ReportData(title="t", task="sums", students=("pupil",), corrector=corrector, funnel=funnel)
    summary = summarize(data)
    headline, lede = summary.headline, summary.lede
    assert "of 0 mistakes" not in headline
    if "now ha" in headline:
        corrected, mistakes, *_, paths = numbers(re.sub(r"\([^)]*\)", "", headline))
        assert (corrected, mistakes, paths) == (funnel.corrected, funnel.mistakes, funnel.paths)
        assert funnel.tried.answered
    elif "No correction came back" in headline:
        assert funnel.tried.answered == 0
        assert funnel.mistakes
    elif "Right are" in headline:
        assert numbers(headline) == [funnel.verdicts["right"], funnel.paths]
        assert not funnel.mistakes
    else:
        assert "No solution" in headline
        assert not funnel.paths
    assert ("wrote its solutions" in lede) == bool(funnel.paths)
    assert ("was asked for the first wrong step" in lede) == bool(funnel.mistakes and funnel.tried.answered)
    (sent,) = re.findall(r"Of [\d,]+ solutions? [^.]*\.", lede)
    assert numbers(sent) == [funnel.paths, funnel.mistakes, funnel.accepted]
    for name, asked in (("solution", funnel.sampled), ("correction", funnel.tried)):
        missing = re.findall(rf"([\d,]+ of [\d,]+ {name}s? asked for [^.]*)\.", lede)
        if not asked or asked.total == asked.kept:
            assert not missing
            continue
        lost, total, *parts = numbers(missing[0])
        assert (lost, total) == (asked.total - asked.kept, asked.total)
        assert sum(parts) == lost, "refused, failed, unparsable and rejected add up to what is missing"
    came_back = re.findall(r"\| corrections that came back \| ([\d,]+) \|", render_markdown(data))
    assert [number.replace(",", "") for number in came_back] == ([str(funnel.tried.answered)] if funnel.tried else [])
    assert "None" not in render_html(data)


@given(funnels(), st.sampled_from(["nothing", "verdicts", "mistakes", "corrections"]))
def test_a_run_that_ended_early_says_nothing_of_what_it_did_not_come_to(funnel, last) -> None:
    """Whatever stage was the last one, no sentence and no row is about a later one."""
    made = replace(
        funnel, selected=last in ("mistakes", "corrections"), tried=funnel.tried if last == "corrections" else None
    )
    ended = EarlyEnd(why="The endpoint's words: no <b>cap</b>.", stage="some_stage")
    data = ReportData(
        title="t", task="sums", students=("pupil",), corrector="teacher", ended=ended,
        funnel=None if last == "nothing" else made,
    )  # fmt: skip
    summary = summarize(data)
    page = render_markdown(data)
    assert "ended early, in the stage some stage" in summary.headline
    assert "The endpoint's words: no" in page
    assert "<b>cap" not in render_html(data)
    assert ("judged," in summary.lede) == (last != "nothing")
    assert ("selected." in summary.lede) == ("mistakes among them" in page) == (last in ("mistakes", "corrections"))
    assert ("kept." in summary.lede) == ("corrections accepted" in page) == (last == "corrections" and bool(made.tried))
    for untrue in ("was asked", "fine-tuned", "pupil wrote", "teacher"):
        assert untrue not in summary.lede
    if last != "nothing":
        judged = re.search(
            r"([\d,]+) solutions? to ([\d,]+) questions? w\w+ judged, ([\d,]+) of them right", summary.lede
        )
        assert numbers(judged[0]) == [made.paths, made.questions, made.verdicts["right"]]


LOSSES = st.dictionaries(
    st.sampled_from(["failed_bad_request", "failed_server_error", "second_failed_bad_request"]), st.integers(0, 30)
)


@given(LOSSES, st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 40))
def test_every_row_of_a_step_is_counted_once(counts, empty, wrong, kept, failed) -> None:
    reasons = {"request_failed": failed, "empty": empty, "wrong_answer": wrong}
    manifest = Manifest.model_construct(
        stage="corrections", rows_in=kept + failed + empty + wrong, rows_out=kept, rejected=failed + empty + wrong,
        reasons=reasons, counts=counts,
    )  # fmt: skip
    asked = Asked.of([manifest])
    assert asked.total == manifest.rows_in
    assert (asked.unusable, asked.rejected, asked.kept) == (empty, wrong, kept)
    assert min(asked.refused, asked.failed) >= 0

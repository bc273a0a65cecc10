import dataclasses
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from lema_core.evaluation.accuracy import PassScore, VoteScore
from lema_core.evaluation.checkpoint_selection import CheckpointScore
from lema_core.evaluation.statistics import wilson
from lema_core.report import Funnel, ReportData, render_html, render_markdown, summarize
from lema_core.report.data import Selection
from lema_core.report.render import align_correction
from lema_core.training.lengths import TrainedOn

HOSTILE = '<script>alert("x")</script> | **bold** `tick` ``` fence\n| a | b | $5 {{ 7*7 }}'


class Page(HTMLParser):
    """Collects what a browser would fetch or run, tags left open, and the visible text."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, html):
        super().__init__()
        self.open, self.fetched, self.tags, self.text, self.ids = [], [], set(), [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def visible(html):
    return " ".join("".join(Page(html).text).split())


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(sample):
    html = render_html(sample)
    page = Page(html)
    assert page.open == []
    assert page.fetched == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert not re.search(r"@import|url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_tells_the_result_first(sample):
    text = visible(render_html(sample))
    assert "SmolLM2-135M-Instruct went from" in text
    assert text.index("went from") < text.index("Did it learn?") < text.index("From questions to corrections")


def test_both_renderings_hold_the_same_figures(sample):
    html, markdown = visible(render_html(sample)), render_markdown(sample)
    for figure in ("1,187", "1,096", "step not in path", "wrong answer", "$1.90", "379,840", "0c77aa19e35f"):
        assert figure in html
        assert figure in markdown
    for score in sample.evaluation.scores:
        shown = f"{100 * score.accuracy.value:.1f} %"
        assert shown in html
        assert shown in markdown


def test_the_same_data_gives_the_same_bytes_in_another_process(sample):
    # Another process has another hash seed: an order that hangs on it would show.
    program = (
        "import runpy, hashlib, sys; from lema_core.report import render_html, render_markdown;"
        "d = runpy.run_path(sys.argv[1])['sample_data']();"
        "print(hashlib.sha256((render_html(d) + render_markdown(d)).encode()).hexdigest())"
    )
    conftest = __file__.replace("test_report_pages.py", "conftest.py")
    other = subprocess.run(
        [sys.executable, "-c", program, conftest], env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert other == hashlib.sha256((render_html(sample) + render_markdown(sample)).encode()).hexdigest()


def test_text_of_models_is_escaped_everywhere(sample, make_correction):
    hostile = make_correction(
        question=HOSTILE, explanation=HOSTILE, gold=HOSTILE, wrong_answer=HOSTILE, student=HOSTILE,
        original=f"Step 1: {HOSTILE}\nThe answer is 1.", spliced="Step 1: fine\nThe answer is 2.",
    )  # fmt: skip
    data = dataclasses.replace(
        sample, title=HOSTILE, students=(HOSTILE,), notes=(HOSTILE,), parameters={HOSTILE: HOSTILE}, examples=(hostile,)
    )
    html = render_html(data)
    assert "script" not in Page(html).tags
    assert "{{ 7*7 }}" in html
    outside_code = re.sub(r"^(`{4,})diff.*?^\1$", "", render_markdown(data), flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside_code.replace(r"\<script", "")


def test_names_of_arms_are_shown_in_plots_as_they_are(sample):
    scores = tuple(dataclasses.replace(s, name=f"$x^2$ <{s.name}>") for s in sample.evaluation.scores)
    evaluation = dataclasses.replace(sample.evaluation, scores=scores, base=scores[0].name, comparisons=(), levels=())
    data = dataclasses.replace(sample, evaluation=evaluation, curves=())
    assert "$x^2$ &lt;cot&gt;" in render_html(data).split("<svg")[1]


def test_a_run_without_training_leaves_those_sections_out(sample):
    data = dataclasses.replace(sample, evaluation=None, curves=(), perplexity_gaps={})
    for text in (visible(render_html(data)), render_markdown(data)):
        assert "1,096 of 1,187 mistakes" in text
        assert "Did it learn?" not in text
        assert "Training" not in text


def test_an_empty_run_still_gives_a_page():
    data = ReportData(title="t", task="sums", students=("s",), corrector="c")
    assert Page(render_html(data)).open == []
    assert render_markdown(data).startswith("# t\n")


def test_a_funnel_of_nothing_does_not_divide_by_it():
    nothing = Funnel(questions=0, paths=0, verdicts={}, mistakes=0, corrections=0, accepted=0, corrected=0)
    data = ReportData(title="t", task="sums", students=("s",), corrector="c", funnel=nothing)
    assert "0 of 0 mistakes" in visible(render_html(data))


def test_markdown_tables_have_as_many_cells_as_columns(sample):
    for table in re.findall(r"(?:^\|.*\n)+", render_markdown(sample), flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


@pytest.mark.parametrize(
    ("low", "high", "p", "said"),
    [
        (0.1, 0.3, 0.01, "went from"),
        (-0.1, 0.3, 0.2, "cannot tell from chance"),
        (0.01, 0.3, 0.07, "cannot tell from chance"),
        (-0.3, -0.1, 0.01, "fell from"),
    ],
)
def test_the_headline_claims_no_more_than_interval_and_p(sample, low, high, p, said):
    evaluation = sample.evaluation
    comparisons = tuple(
        dataclasses.replace(c, holm_p=p, difference=dataclasses.replace(c.difference, low=low, high=high))
        for c in evaluation.comparisons
    )
    data = dataclasses.replace(sample, evaluation=dataclasses.replace(evaluation, comparisons=comparisons))
    assert said in summarize(data).headline


@pytest.mark.parametrize(
    ("cot", "said"),
    [
        ((24, 15_800), "one model each, at 24 optimiser steps each and equal target tokens"),
        ((24, 10_000), "one model each, at 24 optimiser steps each and unequal target tokens (1.6 times as many)"),
        ((14, 5_500), "at unequal optimiser steps (24 against 14) and unequal target tokens (2.9 times as many)"),
    ],
)
def test_the_headline_names_what_right_solutions_alone_came_to_and_how_long_both_were_trained(sample, cot, said):
    trained = {"cot": TrainedOn(cot[0], 105, cot[1], 9_000), "lema": TrainedOn(24, 192, 15_800, 21_000)}
    data = dataclasses.replace(sample, trained=trained)
    summary = summarize(data)
    assert "with right solutions alone (“cot”)" in summary.headline
    assert said in summary.headline
    unequal = any("may come from that alone" in sentence for sentence in summary.caveats)
    assert unequal is ("unequal" in said)
    for page in (render_markdown(data), render_html(data)):
        assert "What each model was trained on" in page
        assert "15,800" in page
        assert "21,000" in page


def test_one_comparison_has_no_adjusted_p_and_one_run_no_better_arm(sample):
    evaluation = sample.evaluation
    (pair,) = (c for c in evaluation.comparisons if c.reference == "cot")
    sure = dataclasses.replace(pair, holm_p=0.001, difference=dataclasses.replace(pair.difference, low=0.1, high=0.3))
    alone = dataclasses.replace(sample, evaluation=dataclasses.replace(evaluation, comparisons=(sure,)))
    for text in (render_markdown(alone), render_html(alone), " ".join(summarize(alone).caveats)):
        assert "Holm" not in text
        assert "better" not in text
    assert "is ahead of that of cot" in " ".join(summarize(alone).caveats)
    assert "Holm p" in render_markdown(sample)


def test_checkpoints_have_a_curve_over_steps_and_the_mean_of_the_best_three(sample):
    def score(step, right, test):
        return CheckpointScore(
            step=step, n=20, right=right, accuracy=right / 20, low=0.0, high=1.0, chosen=right == 12,
            test_accuracy=test, test_low=0.0, test_high=1.0,
        )  # fmt: skip

    scores = tuple(score(10 * number, right, right / 40) for number, right in enumerate((4, 12, 10, 8), 1))
    chosen = Selection(arm="lema", scores=scores)
    assert chosen.best_three == pytest.approx((12 + 10 + 8) / 60)
    assert chosen.best_three_on_test == pytest.approx((12 + 10 + 8) / 120)
    assert Selection(arm="lema", scores=scores[:2]).best_three is None
    data = dataclasses.replace(sample, selections=(chosen,))
    text = render_markdown(data).replace("\u202f", " ")
    assert "Mean of the best three: 50 % on the held-out questions, 25 % on the test set (leaks)." in text
    page = render_html(data)
    assert "Accuracy of checkpoints by optimizer step" in page
    assert "mean of the best three" in page


def test_many_students_are_counted_in_the_headline_and_named_once(sample):
    data = dataclasses.replace(sample, students=("a", "b", "c"), evaluation=None)
    summary = summarize(data)
    assert "that three models made" in summary.headline
    assert "Three models (a, b, c) were asked" in summary.lede
    two = summarize(dataclasses.replace(sample, students=("a", "b")))
    assert two.headline.startswith("SmolLM2-135M-Instruct went from")
    assert "a and b were asked" in two.lede


def test_a_model_trained_from_another_one_is_not_said_to_have_learned(sample):
    headline = summarize(dataclasses.replace(sample, trained_from="tiny")).headline
    assert headline.startswith("A model fine-tuned from tiny (arm “lema”) was right on ")
    assert "SmolLM2-135M-Instruct on " in headline
    assert "went from" not in headline


def test_a_pair_marks_the_wrong_step_and_what_changed(sample):
    rows = align_correction(sample.examples[1]).rows
    assert [row.mistake.state for row in rows] == ["same", "wrong", "after", "after", "after"]
    assert rows[1].correction.state == "corrected"
    assert [s.text for s in rows[2].correction.spans if s.changed] == ["50", "125"]
    assert [s.text for s in rows[2].mistake.spans if s.changed] == ["25", "100"]
    assert rows[-1].mistake.number is None


def test_a_pair_keeps_every_word_of_both_sides(sample):
    for correction in sample.examples:
        rows = align_correction(correction).rows
        for side, text in (("mistake", correction.original), ("correction", correction.spliced)):
            views = [v for v in (getattr(row, side) for row in rows) if v is not None]
            said = [f"Step {v.number}: {v.text}" if v.number else v.text for v in views]
            assert "\n".join(said) == text


def test_a_pair_without_steps_marks_all_of_it(make_correction):
    correction = make_correction(step=0, original="A is wet. The answer is B.", spliced="A is dry. The answer is A.")
    assert {row.mistake.state for row in align_correction(correction).rows if row.mistake} <= {"wrong", "after"}


def test_samples_without_a_majority_have_pass_at_k_only(sample):
    n = sample.evaluation.n
    passes = (PassScore(k=4, accuracy=wilson(60, n), difference=None),)
    votes = (VoteScore(name="SmolLM2-135M", k=4, accuracy=None, difference=None, passes=passes),)
    data = dataclasses.replace(sample, vote_scores=votes)
    for page in (render_html(data), render_markdown(data)):
        assert "pass@4" in page
        assert "maj@" not in page

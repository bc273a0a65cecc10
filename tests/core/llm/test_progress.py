from dataclasses import replace

from lema_core.llm.progress import Counters, figures, sum_snapshots


def snapshot(bought: int, dollars: float | None, total: int | None):
    counters = Counters()
    counters.expect(total)
    for _ in range(bought):
        counters.done += 1
        counters.count_completion(10.0, 5, 7, dollars)
    return counters.snapshot(11.0, [], [float(bought)])


def test_several_engines_figures_are_told_as_one() -> None:
    one = sum_snapshots([snapshot(3, 0.5, 10), snapshot(5, 0.25, 20)])
    assert (one.done, one.total, one.prompt_tokens, one.dollars) == (8, 30, 40, 2.75)
    assert one.oldest_s == 8.0


def test_what_one_engine_does_not_know_nobody_knows_but_for_money() -> None:
    one = sum_snapshots([snapshot(3, None, None), snapshot(5, 0.25, 20)])
    assert (one.total, one.dollars) == (None, 1.25)
    assert sum_snapshots([]).done == 0


def test_the_figures_of_one_stage_are_those_since_it_began() -> None:
    before, now = snapshot(3, 0.5, 10), snapshot(8, 0.5, 10)
    stage = now.since(before, total=20)
    assert (stage.done, stage.completions, stage.prompt_tokens, stage.dollars) == (5, 5, 25, 2.5)
    # Half a dollar an answer, and 15 more to come at the rate so far.
    assert (stage.dollars_forecast, stage.eta_s) == (10.0, 15 / now.rate)
    assert now.since(now, total=20).dollars_forecast is None


def test_the_figures_in_words_tell_only_of_trouble_that_is_there() -> None:
    quiet = figures(snapshot(8, 0.5, 10))
    assert quiet["done"] == "8/10"
    assert quiet["spent"] == "$4.00 of about $5.00"
    assert not quiet.keys() & {"sleeping", "429", "5xx", "lost", "rejected"}
    stuck = replace(snapshot(8, None, None), sleeping_s=12.0, r429=3, failures=1, eta_s=3700.0)
    told = figures(stuck)
    assert (told["done"], told["sleeping"], told["429"], told["rejected"], told["ETA"]) == (
        "8", "12 s", "3", "1", "1:01:40",
    )  # fmt: skip
    assert "spent" not in told

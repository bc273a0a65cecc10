from lema_core.llm.progress import Counters, added_up


def snapshot(bought: int, dollars: float | None, total: int | None):
    counters = Counters()
    counters.expect(total)
    for _ in range(bought):
        counters.done += 1
        counters.bought(10.0, 5, 7, dollars)
    return counters.snapshot(11.0, [], [float(bought)])


def test_several_engines_figures_are_told_as_one() -> None:
    one = added_up([snapshot(3, 0.5, 10), snapshot(5, 0.25, 20)])
    assert (one.done, one.total, one.prompt_tokens, one.dollars) == (8, 30, 40, 2.75)
    assert one.oldest_s == 8.0


def test_what_one_engine_does_not_know_nobody_knows_but_for_money() -> None:
    one = added_up([snapshot(3, None, None), snapshot(5, 0.25, 20)])
    assert (one.total, one.dollars) == (None, 1.25)
    assert added_up([]).done == 0

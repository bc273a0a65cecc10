"""The judgement of a pilot, and what is kept of it."""

import pytest
from pydantic import ValidationError

from lema_core.errors import DataError
from lema_core.rating.pilot import Decision, Findings, GateRule, PilotSummary, objections, read_decision, write_decision

UNRATED = Findings(mistakes=10, corrected=6, reasons={"wrong_answer": 3, "unparsable": 1}, ratings=None)


def rated(poor: int) -> Findings:
    counts = {"excellent": 6 - poor, "good": 0, "poor": poor}
    return Findings(mistakes=10, corrected=6, reasons={}, ratings=PilotSummary(6, {"anna": counts}, {}))


@pytest.mark.parametrize(
    ("rule", "found", "passes"),
    [
        (GateRule(min_accepted=0.6), UNRATED, True),
        (GateRule(min_accepted=0.61), UNRATED, False),
        (GateRule(max_poor=0.0), UNRATED, True),
        (GateRule(max_poor=0.5), rated(3), True),
        (GateRule(max_poor=0.49), rated(3), False),
        (GateRule(max_poor=0.0), rated(0), True),
        (GateRule(min_accepted=0.9, max_poor=0.1), rated(3), False),
    ],
)
def test_a_rule_is_kept_or_says_what_was_seen(rule, found, passes):
    against = objections(rule, found)
    assert (not against) is passes
    assert all("%" in text for text in against)


def test_a_rule_that_bounds_nothing_is_refused():
    with pytest.raises(ValidationError, match="empty rule"):
        GateRule()


def test_a_pilot_is_told_with_its_reasons_in_order():
    assert UNRATED.describe() == (
        "6 of 10 mistakes have an accepted correction (60%). Rejected: 3 wrong_answer, 1 unparsable."
    )


def test_a_decision_is_kept_and_a_torn_one_is_named(tmp_path):
    folder = str(tmp_path / "gate")
    assert read_decision(folder) is None
    decision = Decision(approved=True, by="person", note="fine", findings="6 of 10")
    write_decision(folder, decision)
    assert read_decision(folder) == decision
    (tmp_path / "gate" / "decision.json").write_text("{")
    with pytest.raises(DataError, match="holds no decision"):
        read_decision(folder)

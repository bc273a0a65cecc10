"""Majority vote over answers by equivalence: 0.5, 1/2 and 50% vote together (paper, section 2.4; maj@k)."""

from collections.abc import Sequence

from lema_core.answers.matching import match
from lema_core.answers.results import DEFAULT_POLICY, Family, MatchPolicy, Vote


def majority_vote(
    answers: Sequence[str | None],
    family: Family = "numeric",
    candidates: tuple[str, ...] | None = None,
    *,
    policy: MatchPolicy = DEFAULT_POLICY,
) -> Vote:
    """Return the answer that most of ``answers`` agree on; None entries (no answer) do not vote.

    Deterministic: an answer joins the first class of which it equals every member, as equality is not transitive (50%
    is 0.5 and is 50); among classes of one size the one that was seen first wins (``tied`` says so).
    """
    classes: list[list[int]] = []
    for position, answer in enumerate(answers):
        if answer is None or not answer.strip():
            continue
        for members in classes:
            others = (str(answers[member]) for member in members)
            matches = (match(other, answer, family, candidates, policy=policy) for other in dict.fromkeys(others))
            if all(one.outcome == "equal" for one in matches):
                members.append(position)
                break
        else:
            classes.append([position])
    classes.sort(key=lambda members: (-len(members), members[0]))
    total = sum(map(len, classes))
    if not classes:
        return Vote(None, 0, 0, tied=False, classes=())
    tied = len(classes) > 1 and len(classes[1]) == len(classes[0])
    return Vote(answers[classes[0][0]], len(classes[0]), total, tied, tuple(map(tuple, classes)))

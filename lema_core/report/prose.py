"""The sentences of a report: what came out, what was done, how sure it is. Used by every rendering alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lema_core.evaluation.accuracy import Comparison
from lema_core.evaluation.likelihood import LikelihoodRow
from lema_core.evaluation.several_sets import Overall
from lema_core.evaluation.statistics import MIN_SEEDS, Estimate
from lema_core.llm.costs.prices import money
from lema_core.report.data import EarlyEnd, Funnel, ReportData, Usage
from lema_core.training.lengths import describe_lengths

__all__ = [
    "Summary",
    "describe_bill",
    "describe_likelihoods",
    "describe_overall",
    "describe_yield",
    "format_count",
    "format_interval",
    "format_nats",
    "format_p_value",
    "format_percent",
    "format_points",
    "p_clause",
    "summarize",
]

_NBSP = "\u202f"
_ENOUGH_FOR_A_DECIMAL = 500
"""Below this many items one item moves the accuracy by more than 0.2 points: a decimal would be noise."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The report's prose."""

    headline: str
    """The result, in one sentence."""
    lede: str
    """What was done, in one paragraph for readers new to LeMa."""
    caveats: tuple[str, ...]
    """How far the result carries, as sentences."""


def format_count(number: int | None) -> str:
    """Return 12345 as ``12,345``, and a dash where there is no number."""
    return "–" if number is None else f"{number:,}"


def format_percent(share: float, n: int = 0) -> str:
    """Return a share as percent, with a decimal where ``n`` items are enough for one."""
    return f"{100 * share:.{1 if n >= _ENOUGH_FOR_A_DECIMAL else 0}f}{_NBSP}%"


def format_points(difference: float, n: int = 0) -> str:
    """Return a difference of shares in points, signed with a true minus."""
    digits = 1 if n >= _ENOUGH_FOR_A_DECIMAL else 0
    return f"{100 * difference:+.{digits}f}".replace("-", "−")


def format_interval(estimate: Estimate, n: int = 0, *, signed: bool = False) -> str:
    """Return the interval in percent or points, without a unit: ``22 to 40``."""
    digits = 1 if n >= _ENOUGH_FOR_A_DECIMAL else 0
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    return " to ".join(form.format(100 * bound).replace("-", "−") for bound in (estimate.low, estimate.high))


def format_nats(value: float, *, signed: bool = False) -> str:
    """Return a negative log-likelihood in nats a token, a difference signed with a true minus."""
    return f"{value:{'+' if signed else ''}.4f}".replace("-", "−")


def describe_likelihoods(rows: Sequence[LikelihoodRow]) -> str:
    """Return what the intervals of a table of likelihoods are over."""
    pairs = {row.pairs for row in rows if row.difference}
    if not pairs:
        return "One model, or none to compare it with."
    if max(pairs) < MIN_SEEDS:
        return (
            "Of one seed the interval is over the solutions and speaks of these two models; three seeds or more are "
            "needed to speak of the arms."
        )
    return "Intervals are over solutions and seeds, paired seed by seed."


def format_p_value(p: float) -> str:
    """Return a p value as it is read: three decimals, or ``< 0.001``."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_clause(p: float, family: int) -> str:
    """Return a p value, adjusted for ``family`` comparisons, as a clause; that of one alone is not adjusted."""
    name = "Holm's p" if family > 1 else "p"
    return f"{name} is {'below 0.001' if p < 0.001 else format_p_value(p)}"


def describe_overall(overall: Overall) -> str:
    """Return what the figures over all test sets are, for readers who compare them with those of a set."""
    text = (
        "The average counts each test set alike, and its interval combines those of the sets; the pooled p is "
        f"McNemar's over all {format_count(overall.n)} questions together, where a large set weighs "
        "more."
    )
    if overall.repeated:
        text += f" {format_count(overall.repeated)} questions that an earlier set has too count there only."
    return text


def describe_bill(data: ReportData) -> str:
    """Return how the stages' usage and the ledger's payments agree, in money or else in tokens."""
    bill = data.bill
    if bill is None:
        return ""
    costs = [used.cost for used in data.usage if used.cost is not None]
    priced = bill.cost is not None or bill.failed_cost is not None
    paid, failed, used = (
        (bill.cost or 0.0, bill.failed_cost or 0.0, sum(costs))
        if priced
        else (
            bill.tokens,
            bill.failed_tokens,
            sum(used.prompt_tokens + used.completion_tokens for used in data.usage),
        )
    )
    shown = money if priced else (lambda tokens: f"{tokens:,.0f} tokens")
    reasons = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in bill.failed.items())
    lost = f" and {shown(failed)} for attempts without an answer that could be used ({reasons})" if reasons else ""
    text = (
        f"By its ledger, which its budget counts by, the run had paid {shown(paid + failed)} when this page was made: "
        f"{shown(paid)} for {format_count(bill.answers)} answers{lost}. The stages in the table used {shown(used)}"
    )
    rest = paid - used
    if abs(rest) < 1e-9 * max(1.0, paid):
        return f"{text}, which is all of these answers."
    if rest > 0:
        return (
            f"{text}, {shown(rest)} less: the other answers are those of a pilot, of a stage that was not finished, or "
            "of other settings under the same name."
        )
    return (
        f"{text}, {shown(-rest)} more: other runs paid for some on the same ledger, or several stages use the same one."
    )


def describe_yield(usage: Sequence[Usage], kept: int) -> str:
    """Return what one kept correction has cost, in money or else in tokens; empty without corrections."""
    making = [used for used in usage if used.stage not in _ASKED_AFTERWARDS]
    if not kept or not making:
        return ""
    costs = [used.cost for used in making if used.cost is not None]
    tokens = sum(used.prompt_tokens + used.completion_tokens for used in making)
    priced = f"{money(sum(costs) / kept)} and " if any(costs) else ""
    return (
        f"A kept correction has cost {priced}{tokens / kept:,.0f} tokens: those of the answers in all stages before "
        f"the training, over {format_count(kept)} corrections."
    )


_ASKED_AFTERWARDS = frozenset({"evaluation", "votes", "self_correction"})
"""Stages whose answers no correction is made from."""


def summarize(data: ReportData) -> Summary:
    """Return a run's prose."""
    return Summary(_write_headline(data), _describe_method(data), tuple(_list_caveats(data)))


def _write_headline(data: ReportData) -> str:
    if data.ended:
        return f"This run ended early{_in_stage(data.ended)}."
    if data.evaluation is not None:
        to_base = [c for c in data.evaluation.comparisons if c.reference == data.evaluation.base]
        best = next((c for c in to_base if c.arm == "lema"), to_base[-1] if to_base else None)
        if best is not None:
            evaluation = data.evaluation
            n = evaluation.n
            before, after = (evaluation.score(name).accuracy.value for name in (best.reference, best.arm))
            # The model that learned is the evaluation's base model, whichever model made the mistakes.
            learner = data.learner or f"The model {evaluation.base}"
            asked = f"{format_count(n)} held-out questions{_first_set(data)}"
            if data.trained_from:
                said = (
                    f"A model fine-tuned from {data.trained_from} (arm “{best.arm}”) was right on "
                    f"{format_percent(after, n)} of {asked}, {learner} on {format_percent(before, n)}"
                )
            else:
                verb = "fell" if best.shown and best.difference.high < 0 else "went"
                how = f"with the arm “{best.arm}”"
                moved = f"{verb} from {format_percent(before, n)} to {format_percent(after, n)}"
                said = f"{learner} {moved} right on {asked} {how}"
            also = _against_solutions(data, best) + _further_differences(data, best)
            if best.shown:
                return f"{said}{also}."
            return f"{said}, a difference this test cannot tell from chance{also}."
        if data.evaluation.base is None:
            # The arms' accuracies, for an evaluation without a base model.
            n, scores = data.evaluation.n, data.evaluation.scores
            accuracies = ", ".join(f"{score.name} {format_percent(score.accuracy.value, n)}" for score in scores)
            said = f"Right on {format_count(n)} held-out questions{_first_set(data)}: {accuracies}"
            compared = [comparison.shown for comparison in data.evaluation.comparisons]
            return f"{said}." if any(compared) or not compared else f"{said}; this test cannot tell them apart."
    if data.funnel is not None:
        return _describe_collection(data, data.funnel)
    return f"{_students(data)} on {data.task}, corrected by {data.corrector}."


def _describe_collection(data: ReportData, funnel: Funnel) -> str:
    """Return what a run without an evaluation came to."""
    students, paths = _students(data), _quantity(funnel.paths, "solution")
    if not funnel.paths and funnel.sampled:
        return f"No solution by {students} could be read: {_quantity(funnel.questions, 'question')} asked."
    if not funnel.mistakes and funnel.sampled:
        right = funnel.verdicts.get("right", 0)
        return f"Right are {format_count(right)} of {paths} by {students}; none was sent to a corrector."
    if funnel.tried and not funnel.tried.answered:
        return (
            f"No correction came back for the {_quantity(funnel.mistakes, 'mistake')} that {students} made in {paths}."
        )
    share = f" ({format_percent(funnel.corrected / funnel.mistakes, funnel.mistakes)})" if funnel.mistakes else ""
    have = "has" if funnel.corrected == 1 else "have"
    return (
        f"{format_count(funnel.corrected)} of {_quantity(funnel.mistakes, 'mistake')}{share} that {students} made "
        f"in {paths} now {have} a checked correction."
    )


def _quantity(number: int, noun: str) -> str:
    """Return ``1 mistake`` or ``3 mistakes``."""
    return f"{format_count(number)} {noun}{'' if number == 1 else 's'}"


def _first_set(data: ReportData) -> str:
    """Return which test set a figure is of, where there are several."""
    return f" of {data.sets[0].name}" if data.further_sets else ""


def _further_differences(data: ReportData, best: Comparison) -> str:
    """Return the same difference on the other test sets."""
    found = [
        f"{format_points(other.difference.value, measured.evaluation.n)} points on {measured.name}"
        for measured in data.further_sets
        if (other := measured.evaluation.comparison(best.arm, best.reference))
    ]
    return f"; {', '.join(found)}" if found else ""


def _against_solutions(data: ReportData, best: Comparison) -> str:
    """Return what the model of `cot` came to, and whether both were trained equally long.

    Without it, what right solutions alone teach would count for the mistakes.
    """
    if best.arm == "cot" or data.evaluation is None:
        return ""
    found = [score for score in data.evaluation.scores if score.name == "cot"]
    if not found:
        return ""
    lengths = describe_lengths(data.trained.get(best.arm), data.trained.get("cot"))
    share = format_percent(found[0].accuracy.value, data.evaluation.n)
    return f"; with right solutions alone (“cot”) {share}, one model each{f', {lengths}' if lengths else ''}"


def _students(data: ReportData) -> str:
    """Return the students as a subject: more than two are counted, and named once in the lede."""
    names = data.students
    return f"{_spell_number(len(names))} models" if len(names) > 2 else " and ".join(names) or "the student"


def _spell_number(n: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[n] if n < len(words) else format_count(n)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _in_stage(ended: EarlyEnd) -> str:
    return f", in the stage {ended.stage.replace('_', ' ')}" if ended.stage else ""


def _describe_early_end(data: ReportData) -> Iterator[str]:
    """Yield what a run that ended early had published: nothing that a later stage would have made."""
    yield "LeMa teaches a language model from mistakes."
    yield "This page shows what the run had published when it ended; no later stage has run."
    funnel = data.funnel
    if funnel is None:
        yield "No solution was judged."
        return
    right = funnel.verdicts.get("right", 0)
    yield (
        f"{_quantity(funnel.paths, 'solution')} to {_quantity(funnel.questions, 'question')} "
        f"{'was' if funnel.paths == 1 else 'were'} judged, {format_count(right)} of them right."
    )
    if funnel.selected:
        yield f"{_quantity(funnel.mistakes, 'mistake')} {'was' if funnel.mistakes == 1 else 'were'} selected."
    if funnel.tried:
        yield f"{_quantity(funnel.accepted, 'correction')} {'was' if funnel.accepted == 1 else 'were'} kept."
    yield from _describe_missing(funnel)


def _describe_method(data: ReportData) -> str:
    if data.ended:
        return " ".join(_describe_early_end(data))
    several = len(data.students) > 1
    named = f" ({', '.join(data.students)})" if len(data.students) > 2 else ""
    verb, possessive = ("were", "their") if several else ("was", "its")
    subject = f"{_capital(_students(data)) if named else _students(data)}{named}"
    sentences = [
        "LeMa teaches a language model from mistakes.",
        f"{subject} {verb} asked questions ({data.task})"
        + (f" and wrote {possessive} solutions step by step." if data.funnel is None or data.funnel.paths else "."),
        *_describe_correcting(data),
    ]
    if data.evaluation is not None:
        arms = len(data.evaluation.scores) - (data.evaluation.base is not None)
        trained = _capital("one model was" if arms == 1 else f"{_spell_number(arms)} models were")
        other = f" of another task ({data.test_task})" if data.test_task not in {None, data.task} else ""
        questions = f"{format_count(data.evaluation.n)} held-out questions{other}"
        if data.further_sets:
            sizes = (f"{format_count(measured.evaluation.n)} of {measured.name}" for measured in data.sets)
            questions = f"held-out questions of {_spell_number(len(data.sets))} test sets ({', '.join(sizes)})"
        sentences.append(
            f"{trained} fine-tuned on the result, and all answered the same {questions}, once each and without chance "
            "in the sampling."
        )
    return " ".join(sentences)


def _describe_correcting(data: ReportData) -> Iterator[str]:
    """Yield what the corrector did, as far as anything came back, and what became of its answers."""
    funnel = data.funnel
    tried = funnel.tried if funnel else None
    if data.corrector != "none" and (funnel is None or (funnel.mistakes and (tried is None or tried.answered))):
        yield (
            f"Where the answer was wrong, {data.corrector} was asked for the first wrong step, why it is wrong, and "
            "the solution from there on; a correction was kept only if it led to the right answer."
        )
    if funnel is None:
        return
    kept = "1 correction was kept" if funnel.accepted == 1 else f"{format_count(funnel.accepted)} corrections were kept"
    were = "was" if funnel.mistakes == 1 else "were"
    yield (
        f"Of {_quantity(funnel.paths, 'solution')} {format_count(funnel.mistakes)} {were} sent to be corrected; {kept}."
    )
    yield from _describe_missing(funnel)


def _describe_missing(funnel: Funnel) -> Iterator[str]:
    """Yield what became of the answers that are not among the solutions and corrections."""
    for name, asked in (("solution", funnel.sampled), ("correction", funnel.tried)):
        if asked and (lost := asked.total - asked.kept):
            parts = ((asked.refused, "refused"), (asked.failed, "without an answer"),
                     (asked.unusable, "empty, cut off or unparsable"), (asked.rejected, "rejected"))  # fmt: skip
            named = ", ".join(f"{format_count(count)} {what}" for count, what in parts if count)
            are = "is" if lost == 1 else "are"
            yield f"{format_count(lost)} of {_quantity(asked.total, name)} asked for {are} missing: {named}."


def _list_caveats(data: ReportData) -> list[str]:
    found = []
    for measured in data.sets:
        evaluation, where = measured.evaluation, f"{measured.name}: " if data.further_sets else ""
        stated = [c for c in evaluation.comparisons if c.reference != evaluation.base or not c.shown]
        found += [where + _describe_comparison(c) for c in stated]
        if evaluation.detectable < 1:
            found.append(
                f"{where}With {format_count(evaluation.n)} questions a true difference of "
                f"{100 * evaluation.detectable:.0f} points between two models is found four times in five; "
                "smaller ones are mostly missed. How far a training seed moves a model comes on top; one run does not "
                "show it."
            )
    if data.overall:
        found.append(describe_overall(data.overall))
        found.append("Holm's p is adjusted for the comparisons with the same reference on all test sets.")
    found += _list_lengths(data)
    return found


def _list_lengths(data: ReportData) -> Iterator[str]:
    """Yield which compared arms were trained for other numbers of optimiser steps or target tokens."""
    for pair in data.evaluation.comparisons if data.evaluation else ():
        lengths = describe_lengths(data.trained.get(pair.arm), data.trained.get(pair.reference))
        if "unequal" in lengths:
            yield f"{pair.arm} and {pair.reference} were trained {lengths}: a difference may come from that alone."


def _describe_comparison(comparison: Comparison) -> str:
    """Return in words what a comparison settles; its figures are in the table."""
    difference = comparison.difference
    if not difference.resolved:
        return f"This test cannot tell {comparison.arm} from {comparison.reference}: the interval holds zero."
    interval_and_p = f"the interval leaves zero out, {p_clause(comparison.holm_p, comparison.family)}"
    if not comparison.shown:
        return f"{comparison.arm} against {comparison.reference} stays open: {interval_and_p}."
    ahead, behind = (comparison.arm, comparison.reference)[:: 1 if difference.value > 0 else -1]
    # A seed alone moves a model by up to 17 points (docs/report.md): one run of each says nothing about the arms.
    return (
        f"The model of {ahead} is ahead of that of {behind}: {interval_and_p}. It is one model of each: another "
        "seed may turn the order round, and a sweep of three seeds or more compares the arms themselves."
    )

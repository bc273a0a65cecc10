"""Arms: what each fine-tuning run learns from, as small declarative objects (paper, sections 4.1 and 4.2).

An arm is a *view* over one shared pool: which rows, in which input-output format, with which loss weight; and, for the
controlled comparisons, the arm whose size it is brought to. Nothing upstream is made twice for an arm, and a published
method is an entry of ``ARMS``.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lema_core.errors import ConfigError

Rows = Literal["rationales", "right_paths", "wrong_paths", "corrections"]
Format = Literal[
    "cot",
    "correction",
    "without_step",
    "without_explanation",
    "without_solution",
    "corrected_path",
    "critique",
    "refinement",
    "fix_continue",
    "fix_continue_masked",
    "fresh_restart",
    "preference",
    "outcome_preference",
    "kto",
]
PAIRS: frozenset[Format] = frozenset({"preference", "outcome_preference"})
"""Formats of preference pairs."""
MASKED: frozenset[Format] = frozenset({"fix_continue_masked"})
"""Formats of which a part of the output is read, not trained."""
CONTINUED: frozenset[Format] = frozenset({"fix_continue", "fix_continue_masked", "fresh_restart"})
"""Formats that answer as the CoT format does: a wrong beginning, and a solution after it."""
RoundEvolution = Literal["none", "general", "centric", "on_policy"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Where(_Model):
    """Which rows of the pool a view takes; None takes all."""

    rounds: tuple[int, ...] | None = None
    """Rounds of the loop: 0 is the first, on the task's own questions."""
    evolution: tuple[RoundEvolution, ...] | None = None
    """How the questions came about: ``none`` are the task's own, ``on_policy`` the same ones, asked of the model of the
    round before."""
    students: tuple[str, ...] | None = None
    correctors: tuple[str, ...] | None = None
    levels: tuple[str, ...] | None = None
    # Left out of identities where it is not used, as View.of_others.
    error_types: tuple[str, ...] | None = Field(None, exclude_if=lambda value: value is None)
    """Of corrections: the types of the mistakes that they correct; needs [error_types]."""
    sound: bool | None = Field(None, exclude_if=lambda value: value is None)
    """Of right paths: true takes those whose steps state no false arithmetic and compute what the rationale computes or
    what leads there; false takes the others, which are right by luck."""
    prefer: tuple[str, ...] | None = Field(None, exclude_if=lambda value: value is None)
    """Of right paths: the students, or teachers of CoT data, whose paths come first, in this order; with
    ``per_question`` the others fill what is left."""
    per_question: int | None = Field(None, ge=1)
    """Up to this many rows per question, after ``skip_per_question``."""
    skip_per_question: int = Field(0, ge=0)
    """Skips this many first rows per question: another view takes them."""


class View(_Model):
    """Rows of the pool as examples of one format."""

    rows: Rows
    format: Format
    where: Where = Where()
    weight: float = Field(1.0, gt=0)
    """The weight of each example's loss."""
    # Left out of identities where it is not used: arms from before there was the option keep theirs.
    of_others: bool = Field(False, exclude_if=lambda value: not value)
    """Of corrections: each path gets the correction of another question's path, of the same step and about the same
    length; each correction is used once, if no question has more than half of them."""

    @model_validator(mode="after")
    def _pairs_are_of_corrections(self) -> Self:
        if self.format == "preference" and (self.rows != "corrections" or self.weight != 1):
            raise ValueError(f"preference pairs are made from corrections, with weight 1; seen: {self!r}")
        if self.format == "outcome_preference" and (self.rows != "right_paths" or self.weight != 1):
            raise ValueError(f"pairs of paths are made from right_paths, with weight 1; seen: {self!r}")
        if (self.format == "kto") != (self.rows == "wrong_paths") and self.rows != "right_paths":
            raise ValueError(f"rows = 'wrong_paths' and format = 'kto' go together; seen: {self!r}")
        if self.format == "kto" and self.weight != 1:
            raise ValueError(f"format = 'kto' has no weights: TRL's loss is a plain mean; seen: {self!r}")
        if self.rows != "corrections" and (self.of_others or self.format in CONTINUED):
            option = "of_others" if self.of_others else f"format = {self.format!r}"
            raise ValueError(f"{option} is of rows = 'corrections'; seen: rows = {self.rows!r}")
        return self


class SizeMatch(_Model):
    """The size an arm is brought to: that of another arm."""

    arm: str
    by: Literal["rows", "tokens"]
    """tokens: the trained ones of the examples, with what the chat template writes around them; the paper's too."""


class ArmSpec(_Model):
    """A training set by its definition: ``[arms.<name>]`` of a run file."""

    about: str = ""
    """What the arm is for, in words for the report."""
    views: tuple[View, ...] = Field(min_length=1)
    fill: tuple[View, ...] = ()
    """Rows of which a seeded random part is taken until the arm has the size of ``match``."""
    match: SizeMatch | None = None

    @property
    def preferences(self) -> bool:
        """Return whether the arm is trained on preference pairs, by DPO."""
        return any(view.format in PAIRS for view in (*self.views, *self.fill))

    @property
    def objective(self) -> Literal["sft", "dpo", "kto"]:
        """Return what the arm's rows are trained by."""
        if self.preferences:
            return "dpo"
        return "kto" if any(view.format == "kto" for view in (*self.views, *self.fill)) else "sft"

    @property
    def by_error_type(self) -> bool:
        """Return whether views of its own take corrections by the types of the mistakes."""
        return any(view.where.error_types is not None for view in (*self.views, *self.fill))

    @property
    def masked(self) -> bool:
        """Return whether a part of some outputs is read, not trained."""
        return any(view.format in MASKED for view in (*self.views, *self.fill))

    @property
    def by_tokens(self) -> bool:
        """Return whether the arm's size is counted in tokens: then the tokenizer decides which rows are in it."""
        return self.match is not None and self.match.by == "tokens"

    @model_validator(mode="after")
    def _pairs_stand_alone(self) -> Self:
        formats = {view.format for view in (*self.views, *self.fill)}
        if not (formats <= PAIRS or formats.isdisjoint({*PAIRS, "kto"}) or formats == {"kto"}):
            kind = "preference pairs" if self.preferences else "rows of format 'kto'"
            raise ValueError(f"{kind} are trained by another loss: give them an arm of their own")
        return self

    @model_validator(mode="after")
    def _filled_to_a_size(self) -> Self:
        if bool(self.fill) != bool(self.match):
            raise ValueError("fill and match go together: rows are filled in until the arm has the size of match.arm")
        return self


class Arm(ArmSpec):
    """A training set with its name, ready to be built."""

    name: str
    target: tuple[View, ...] = ()
    """The views of the arm whose size it is brought to; ``get_arm`` fills them in."""

    @property
    def identity(self) -> dict[str, object]:
        """Return what decides its rows: neither what it is called, nor what is said about it."""
        return self.model_dump(mode="json", exclude={"name", "about"})

    @property
    def by_soundness(self) -> bool:
        """Return whether a view takes right paths by whether their steps are sound."""
        return any(view.where.sound is not None for view in (*self.views, *self.fill, *self.target))

    @property
    def models(self) -> frozenset[str]:
        """Return the students and correctors that its views name."""
        wheres = [view.where for view in (*self.views, *self.fill, *self.target)]
        named = (names for where in wheres for names in (where.students, where.correctors, where.prefer))
        return frozenset(name for names in named for name in names or ())

    def with_paths(self, *, sound: bool, prefer: tuple[str, ...]) -> "Arm":
        """Return the arm with sound right paths only, and those of some models first, where its views do not say."""

        def chosen(view: View) -> View:
            where = view.where
            wanted = {"sound": sound or None, "prefer": prefer or None}
            unset = {name: value for name, value in wanted.items() if getattr(where, name) is None}
            if view.rows != "right_paths":
                return view
            return view.model_copy(update={"where": where.model_copy(update=unset)})

        parts = {part: tuple(map(chosen, getattr(self, part))) for part in ("views", "fill", "target")}
        return self.model_copy(update=parts)

    def of(self, models: Mapping[str, str]) -> "Arm":
        """Return the arm with the models' identities, as rows carry them, for the names of students and correctors."""
        parts = {part: tuple(_of(view, models) for view in getattr(self, part)) for part in ("views", "fill", "target")}
        return self.model_copy(update=parts)


def _of(view: View, models: Mapping[str, str]) -> View:
    named = {
        part: tuple(models.get(name, name) for name in names)
        for part in ("students", "correctors", "prefer")
        if (names := getattr(view.where, part)) is not None
    }
    return view.model_copy(update={"where": view.where.model_copy(update=named)}) if named else view


PATHS_PER_QUESTION = 4
"""Right paths per question in CoT data; the paper has 3.3 on GSM8K. A token-matched arm can take the rest."""

_OWN = {"evolution": ("none",)}
_MAIN = Where(evolution=("none", "centric"))
"""General evolution is a control: its own arm takes it, and rounds that it is carried through."""
_BOTH_KINDS = (0, 1)
"""Rounds that every kind of evolution is carried through: later ones would favour the first kind."""
COT = (
    View(rows="rationales", format="cot", where=Where(**_OWN)),
    View(rows="right_paths", format="cot", where=Where(rounds=(0,), per_question=PATHS_PER_QUESTION, **_OWN)),
)
_OWN_PATHS = Where(rounds=(0,), per_question=PATHS_PER_QUESTION, **_OWN)
MORE_PATHS = View(rows="right_paths", format="cot", where=Where(skip_per_question=PATHS_PER_QUESTION, **_OWN))


def _with_corrections(name: str, about: str, form: Format = "correction", where: Where | None = None) -> Arm:
    view = View(rows="corrections", format=form, where=where or _MAIN)
    return Arm(name=name, about=about, views=(*COT, view))


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(name="cot", about="CoT data alone: rationales and right paths", views=COT),
        _with_corrections("lema", "CoT data and corrections"),
        Arm(
            name="lema_same_size",
            about="corrections in place of a part of the CoT data: as many examples as cot (the paper's LEMA-32K)",
            views=(View(rows="corrections", format="correction", where=_MAIN),),
            fill=COT,
            match=SizeMatch(arm="cot", by="rows"),
        ),
        _with_corrections(
            "cot_corrected", "CoT data and the corrected paths as CoT (the paper's CoT-45K)", "corrected_path"
        ),
        Arm(
            name="cot_same_tokens",
            about="CoT data grown by more sampled paths to the target tokens of lema",
            views=COT,
            fill=(MORE_PATHS,),
            match=SizeMatch(arm="lema", by="tokens"),
        ),
        Arm(
            name="lema_same_tokens",
            about="corrections in place of a part of the CoT data: as many target tokens as cot",
            views=(View(rows="corrections", format="correction", where=_MAIN),),
            fill=COT,
            match=SizeMatch(arm="cot", by="tokens"),
        ),
        _with_corrections("without_step", "lema, but the wrong step is not named", "without_step"),
        _with_corrections("without_explanation", "lema, but the mistake is not explained", "without_explanation"),
        _with_corrections("without_solution", "lema, but the corrected solution is left out", "without_solution"),
        _with_corrections(
            "evolution_none", "lema without evolved questions", where=Where(rounds=(0,), evolution=("none",))
        ),
        _with_corrections(
            "evolution_general",
            "lema with questions evolved from all questions",
            where=Where(rounds=_BOTH_KINDS, evolution=("none", "general")),
        ),
        _with_corrections(
            "evolution_centric",
            "lema with questions evolved from those in the corrections",
            where=Where(rounds=_BOTH_KINDS, evolution=("none", "centric")),
        ),
        Arm(
            name="critique",
            about="critique fine-tuning (arXiv 2501.17703): question and path to critique, right and wrong paths",
            views=(
                View(rows="corrections", format="critique", where=_MAIN),
                COT[1].model_copy(update={"format": "critique"}),
            ),
        ),
        Arm(
            name="critique_cot",
            about="CoT data and critiques of right and wrong paths: asked for a solution, it knows the format",
            views=(
                *COT,
                View(rows="corrections", format="critique", where=_MAIN),
                COT[1].model_copy(update={"format": "critique"}),
            ),
        ),
        Arm(
            name="refinement",
            about="critique-guided refinement: question, wrong path and explanation to the corrected solution",
            views=(*COT, View(rows="corrections", format="refinement", where=_MAIN)),
        ),
        _with_corrections(
            "fix_continue",
            "CoT data, and paths that go wrong, say so, explain the mistake and go on (LEMMA, arXiv 2503.17439)",
            "fix_continue",
        ),
        _with_corrections(
            "fix_continue_masked", "fix_continue, but the wrong step is read, not trained", "fix_continue_masked"
        ),
        _with_corrections(
            "fresh_restart",
            "CoT data, and paths that go wrong, say so and start again (LEMMA, arXiv 2503.17439)",
            "fresh_restart",
        ),
        Arm(
            name="placebo",
            about="lema, but each path has the correction of another question's path: a control",
            views=(*COT, View(rows="corrections", format="correction", where=_MAIN, of_others=True)),
        ),
        Arm(
            name="rft",
            about="right paths alone: rejection sampling (arXiv 2308.01825), STaR's without rationales (2203.14465)",
            views=(View(rows="right_paths", format="cot", where=Where(rounds=(0,), **_OWN)),),
        ),
        Arm(
            name="step_dpo",
            about="DPO on the corrected step against the wrong one (Step-DPO, arXiv 2406.18629)",
            views=(View(rows="corrections", format="preference", where=_MAIN),),
        ),
        Arm(
            name="dpo_outcome",
            about="DPO on a right path against a wrong one of the same question, without a teacher (arXiv 2305.18290)",
            views=(View(rows="right_paths", format="outcome_preference", where=_OWN_PATHS),),
        ),
        Arm(
            name="kto",
            about="KTO on right paths against wrong ones, unpaired, without a teacher (arXiv 2402.01306)",
            views=(
                View(rows="right_paths", format="kto", where=_OWN_PATHS),
                View(rows="wrong_paths", format="kto", where=_OWN_PATHS),
            ),
        ),
    )
}
"""The bundled arms. ``round_<n>`` and ``corrector_<name>`` are made by ``get_arm``."""

_ROUND = re.compile(r"round_(\d{1,2})")
_CORRECTOR = re.compile(r"corrector_(.+)")


def get_arm(name: str, own: Mapping[str, ArmSpec] | None = None, rounds_of: RoundEvolution = "centric") -> Arm:
    """Return an arm of ``own`` or a bundled one, ``round_<n>`` (corrections up to round n) or ``corrector_<name>``.

    ``rounds_of`` is the kind of evolution that is carried through all rounds, which ``round_<n>`` takes.

    Raises:
        ConfigError: there is no such arm, or its size is to be that of an arm whose own size is another's.
    """
    arm = _arm(name, own or {}, rounds_of)
    if arm.match is None:
        return arm
    target = _arm(arm.match.arm, own or {}, rounds_of)
    if target.match:
        raise ConfigError(
            f"The arm {name!r} is to be brought to the size of {target.name!r}, which is itself brought to that of "
            f"{target.match.arm!r}. Expected an arm without match, such as {target.match.arm!r}."
        )
    return arm.model_copy(update={"target": target.views})


def _arm(name: str, own: Mapping[str, ArmSpec], rounds_of: RoundEvolution) -> Arm:
    if name in own:
        return Arm(name=name, **dict(own[name]))
    if name in ARMS:
        return ARMS[name]
    if found := _ROUND.fullmatch(name):
        last = int(found[1])
        where = Where(rounds=tuple(range(last + 1)), evolution=("none", rounds_of))
        return _with_corrections(name, f"lema with rounds 0 to {last}", where=where)
    if found := _CORRECTOR.fullmatch(name):
        where = Where(correctors=(found[1],), evolution=("none", "centric"))
        return _with_corrections(name, f"lema with {found[1]} as corrector", where=where)
    known = [*own, *ARMS]
    near = difflib.get_close_matches(name, known, n=2)
    meant = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ConfigError(
        f"There is no arm {name!r}. {meant}Expected one of {', '.join(known)}, round_<n> or corrector_<name>; a new "
        f"one is defined as [arms.{name}] in the run file."
    )

"""The plan of a run: which examples a rank computes when; the same optimiser steps on any number of ranks.

A run is a list of steps, and a step a list of examples, in one shuffled pass over the data after another. A step's
examples are divided into ``ranks * pieces`` micro-batches of similar cost. Since the loss is divided by the step's
trained tokens, the division changes only the speed. Pure Python: no torch here.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

MicroBatch = tuple[int, ...]
"""Indices of examples; empty where a step has fewer examples than there are micro-batches."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run: ``micro_batches[(step * pieces + piece) * ranks + rank]``."""

    steps: int
    pieces: int
    """Micro-batches of one rank in one step (gradient accumulation)."""
    ranks: int
    micro_batches: tuple[MicroBatch, ...]

    def tokens_by_step(self, lengths: Sequence[int]) -> list[int]:
        """Return the tokens of each step's examples, padding not counted."""
        width = self.ranks * self.pieces
        steps = [self.micro_batches[start : start + width] for start in range(0, len(self.micro_batches), width)]
        return [sum(lengths[i] for micro in step for i in micro) for step in steps]

    def padding(self, lengths: Sequence[int], *, packed: bool) -> float:
        """Return the share of computed positions that are padding."""
        costs = [_cost([lengths[i] for i in micro], packed) for micro in self.micro_batches]
        return 1 - sum(self.tokens_by_step(lengths)) / sum(costs)


def plan_run(
    lengths: Sequence[int],
    *,
    steps: int,
    batch_size: int,
    epochs: float | None,
    seed: int,
    ranks: int,
    budget: int,
    packed: bool,
) -> Plan:
    """Plan a run over examples of the given lengths (tokens).

    Args:
        lengths: tokens of each example.
        steps: optimiser steps.
        batch_size: examples of a step; the last step of a run counted in epochs may have fewer.
        epochs: passes over the data, at least one example; None where ``steps`` alone ends the run.
        seed: decides the order.
        ranks: processes over all nodes.
        budget: tokens, padding included, that one micro-batch may hold; a single example may be longer.
        packed: whether examples are concatenated (cost: their sum) or padded to the longest (cost: rows x longest).
    """
    order = order_of_run(len(lengths), steps=steps, batch_size=batch_size, epochs=epochs, seed=seed)
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)][:steps]
    pieces = 1
    while True:
        shared = [_divide(chunk, lengths, ranks * pieces, packed) for chunk in chunks]
        worst = max(_cost([lengths[i] for i in micro], packed) for step in shared for micro in step)
        # A micro-batch of one example cannot be made smaller; stop when every step is split that far.
        if worst <= budget or pieces * ranks >= batch_size:
            break
        pieces += 1
    return Plan(len(chunks), pieces, ranks, tuple(micro for step in shared for micro in step))


def order_of_run(count: int, *, steps: int, batch_size: int, epochs: float | None, seed: int) -> list[int]:
    """Return the examples of a run in the order of their steps, as indices below ``count``; see `plan_run`."""
    total = steps * batch_size
    if epochs is not None:
        total = min(total, max(1, round(count * epochs)))
    order: list[int] = []
    epoch = 0
    while len(order) < total:
        examples = list(range(count))
        # A generator per epoch: more epochs extend the order and change nothing of what came before.
        random.Random(f"{seed}:{epoch}").shuffle(examples)  # noqa: S311  not for secrets
        order += examples
        epoch += 1
    return order[:total]


def _cost(lengths: Sequence[int], packed: bool) -> int:
    if not lengths:
        return 0
    return sum(lengths) if packed else len(lengths) * max(lengths)


def _divide(chunk: Sequence[int], lengths: Sequence[int], bins: int, packed: bool) -> list[MicroBatch]:
    """Divide a step's examples into ``bins`` micro-batches, the most expensive one as cheap as possible."""
    by_length = sorted(chunk, key=lambda i: (lengths[i], i))
    groups = _balance(by_length, lengths, bins) if packed else _cut(by_length, lengths, bins)
    return [tuple(group) for group in groups]


def _balance(by_length: Sequence[int], lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Put each example, the longest first, into the lightest bin (LPT: at most 4/3 of the best possible maximum)."""
    groups: list[list[int]] = [[] for _ in range(bins)]
    loads = [0] * bins
    for i in reversed(by_length):
        lightest = loads.index(min(loads))
        groups[lightest].append(i)
        loads[lightest] += lengths[i]
    return groups


def _cut(by_length: Sequence[int], lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Cut the sorted examples into at most ``bins`` runs of neighbours, the most expensive one as cheap as possible.

    Neighbours have similar lengths, so rows need little padding; the smallest feasible maximum is found by bisection.
    """
    low, high = max(lengths[i] for i in by_length), len(by_length) * lengths[by_length[-1]]
    # Larger limits never need more groups, so bisection finds the smallest limit that fits.
    while low < high:
        middle = (low + high) // 2
        if len(_fill(by_length, lengths, middle)) <= bins:
            high = middle
        else:
            low = middle + 1
    groups = _fill(by_length, lengths, low)
    return groups + [[] for _ in range(bins - len(groups))]


def _fill(by_length: Sequence[int], lengths: Sequence[int], limit: int) -> list[list[int]]:
    groups: list[list[int]] = [[]]
    for i in by_length:
        # The examples are sorted, so the new one is the longest of its group.
        if groups[-1] and (len(groups[-1]) + 1) * lengths[i] > limit:
            groups.append([])
        groups[-1].append(i)
    return groups

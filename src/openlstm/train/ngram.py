"""What a character model must beat: an n-gram model, which knows the last few characters and counts. No torch.

Kneser-Ney smoothing with three discounts (Chen and Goodman 1999, section 3). A context that was seen gives

    p_n(w | context) = (c(context, w) - D(c)) / c(context) + share(context) p_{n-1}(w | shorter context)

where `share` is what the discounts D have taken away. c counts at the highest order; below it is the number of symbols
that stood before, because the shorter context is asked only where the longer one is rare. The lowest order rests on
all symbols alike, so every symbol has some probability, and all of them add up to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class _Grams:
    """All different runs of n symbols in a text, sorted."""

    codes: Places  # (D,) of each: the number of the run of n - 1 that it begins with, times symbols, plus its last one
    counts: Places  # (D,)
    first: Places  # (D,) where each ends first, counted in ends of runs
    ends: Places  # (N - n + 1,) which one ends at each place


def ngram_bits(train: Ints, test: Ints, symbols: int, order: int = 5) -> float:
    """Bits a symbol of the test, (M,), by counts of the training text alone, (N,): whole numbers below `symbols`.

    order: the length of a run, so that one symbol less is known.

    >>> text = np.tile([0, 1, 2], 100)
    >>> round(ngram_bits(text, text, symbols=3), 1), round(ngram_bits(text, text, symbols=3, order=1), 1)
    (0.0, 1.6)
    """
    return float(-np.log2(probabilities(train, test, symbols, order)).mean())


def probabilities(train: Ints, test: Ints, symbols: int, order: int = 5) -> NDArray[np.float64]:
    """Of each symbol of the test, given those before it in the test: (M,)."""
    grams = _grams(train, symbols, order)
    p = np.full(len(test), 1 / symbols)
    before = np.zeros(len(test), np.int64)  # which run of n - 1 stands before each symbol, -1: one that was never seen
    contexts = 1  # different runs of n - 1
    for n, level in enumerate(grams, 1):
        counts = level.counts
        if n < len(grams):  # the symbols that stood before
            counts = np.bincount(level.ends[grams[n].first + 1], minlength=len(counts))
        taken = _discounts(counts)[np.minimum(counts, 3)]
        begins = level.codes // symbols
        total = np.bincount(begins, counts, contexts)
        share = np.bincount(begins, taken, contexts)
        codes = np.where(before < 0, -1, before * symbols + test[n - 1 :])
        found = _find(level.codes, codes)
        # A run that stood only at the very beginning has no symbol before it, one at the end none behind.
        asked = np.flatnonzero((before >= 0) & (total[before] > 0))
        gram, context, place = found[asked], before[asked], asked + n - 1
        own = np.where(gram < 0, 0.0, (counts - taken)[gram])
        p[place] = (own + share[context] * p[place]) / total[context]
        before, contexts = found[:-1], len(level.codes)
    return p


def _grams(train: Ints, symbols: int, order: int) -> list[_Grams]:
    """The runs of 1, 2, ... symbols, as far as the text is long enough. Numbers stay below N times symbols."""
    grams: list[_Grams] = []
    for n in range(1, min(order, len(train)) + 1):
        codes = (grams[-1].ends[:-1] * symbols if grams else 0) + train[n - 1 :].astype(np.int64)
        different, first, ends, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
        grams.append(_Grams(different, counts, first, ends))
    return grams


def _discounts(counts: Places) -> NDArray[np.float64]:
    """What is taken from a count of 0, 1, 2, and 3 or more. Never nothing, so that no symbol is impossible."""
    ones, twos, threes, fours = (float(np.sum(counts == k)) for k in (1, 2, 3, 4))
    if not (ones and twos and threes):  # a small text or alphabet says nothing of rare runs
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = ones / (ones + 2 * twos)
    found = np.array([0, 1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes])
    return found.clip([0, 0.1, 0.1, 0.1], [0, 1, 2, 3])


def _find(codes: Places, wanted: Places) -> Places:
    """The place of each in sorted codes, -1: it is not there."""
    at = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
    found: Places = np.where(codes[at] == wanted, at, -1)
    return found

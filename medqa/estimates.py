"""Numbers with their 95 % intervals: a proportion, a count table's test; the base of all metrics, pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from medqa.errors import DataError

CONFIDENCE_LEVEL = 0.95
TOO_FEW = 20
"""Below this n an estimate is called "too few": at n = 20 Wilson's interval of a rate near 1/2 is 40 points wide."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its 95 % interval and the count of items behind it."""

    value: float
    low: float
    high: float
    n: int

    @property
    def too_few(self) -> bool:
        """Whether so few items stand behind it that it should be named and not read."""
        return self.n < TOO_FEW


@dataclass(frozen=True, kw_only=True, slots=True)
class ChiSquared:
    """Pearson's statistic and its p-value."""

    statistic: float
    p_value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MarginalHomogeneity:
    """The Stuart-Maxwell test of a table of pairs."""

    statistic: float
    degrees_of_freedom: int
    p_value: float
    n: int
    """Pairs in the table."""


def wilson(successes: int, n: int) -> Estimate:
    """Return a proportion with its Wilson score interval (Wilson 1927).

    The ends are (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with z = 1.96.

    Raises:
        DataError: when n is 0: there is no rate of nothing.
    """
    if n == 0:
        raise DataError("no items to compute a rate of")
    test = scipy.stats.binomtest(successes, n)
    interval = test.proportion_ci(CONFIDENCE_LEVEL, method="wilson")
    return Estimate(value=successes / n, low=float(interval.low), high=float(interval.high), n=n)


def f1_estimate(hits: int, union: int) -> Estimate:
    """Return F1 = 2 TP / (2 TP + FP + FN) of one class with its interval.

    TP / (TP + FP + FN), Jaccard's index J (Jaccard 1912), is a proportion of the items that are the class or are
    called it, and F1 = 2J / (1 + J) (Dice 1945) rises with it: the ends are those of Wilson's interval of J.

    Args:
        hits: TP, items of the class that are called it.
        union: TP + FP + FN; the estimate's n.

    Raises:
        DataError: when `union` is 0.
    """
    jaccard = wilson(hits, union)
    value, low, high = (2 * end / (1 + end) for end in (jaccard.value, jaccard.low, jaccard.high))
    return Estimate(value=value, low=low, high=high, n=union)


def standard_error(rate: float, n: int) -> float:
    """Return the standard error of a rate of n independent items, sqrt(p (1 - p) / n).

    Raises:
        DataError: when n is 0: there is no rate of nothing.
    """
    if n == 0:
        raise DataError("no items to compute a rate of")
    return math.sqrt(rate * (1 - rate) / n)


def chi_squared(observed: Sequence[int], expected: Sequence[float]) -> ChiSquared:
    """Test observed counts against expected ones, which are scaled to the observed total (Pearson 1900).

    The statistic is the sum over cells of (observed - expected)^2 / expected, with cells - 1 degrees of freedom.

    Raises:
        DataError: when an expected count is 0.
    """
    if not observed or min(expected) <= 0:
        raise DataError(f"expected counts must be above 0 for a chi-squared test: {list(expected)}")
    scaled = np.asarray(expected, dtype=float) * (sum(observed) / math.fsum(expected))
    result = scipy.stats.chisquare(observed, scaled)
    return ChiSquared(statistic=float(result.statistic), p_value=float(result.pvalue))


def stuart_maxwell(counts: Sequence[Sequence[int]]) -> MarginalHomogeneity:
    """Test whether the rows of a square table of pairs have the totals of its columns (Stuart 1955, Maxwell 1970).

    With the differences d_i = row_i - column_i, the statistic is d' S^-1 d, where S_ii = row_i + column_i - 2 n_ii and
    S_ij = -(n_ij + n_ji) is their covariance when the totals are alike. The differences sum to 0, so S is singular: its
    pseudoinverse gives what leaving any one class out gives, and its rank the degrees of freedom. That is classes - 1,
    and less by one for each class, or group of classes, that is never taken for one outside. Rank 0: p is 1.

    Raises:
        DataError: when the table is empty.
    """
    counts_KK = np.asarray(counts, dtype=float)
    if not counts_KK.sum():
        raise DataError("no pairs to compare the totals of")
    rows_K, columns_K = counts_KK.sum(axis=1), counts_KK.sum(axis=0)
    difference_K, covariance_KK = rows_K - columns_K, np.diag(rows_K + columns_K) - counts_KK - counts_KK.T
    rank = int(np.linalg.matrix_rank(covariance_KK, hermitian=True))
    statistic = float(difference_K @ np.linalg.pinv(covariance_KK, hermitian=True) @ difference_K)
    p_value = float(scipy.stats.chi2.sf(statistic, rank)) if rank else 1.0
    return MarginalHomogeneity(
        statistic=statistic, degrees_of_freedom=rank, p_value=p_value, n=round(float(counts_KK.sum()))
    )

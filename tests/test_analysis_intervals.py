"""Intervals that no formula gives: against SciPy, and whether they hold the truth as often as they say."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import scipy.stats
from test_medqa_calibration import drawn

from analysis.coverage import coverage_curve, risk_area
from analysis.intervals import (
    Floats,
    Rows,
    bootstrap_ece,
    bootstrap_macro_f1,
    bootstrap_mean,
    bootstrap_rows,
    calibration_estimates,
)
from medqa.calibration import calibration, equal_mass_bins, equal_width_bins, squared_error
from medqa.errors import DataError
from medqa.estimates import f1_estimate, wilson
from medqa.metrics import class_scores
from medqa.prediction import Prediction
from medqa.temperature import Columns, best_temperature, letter_logits


def answer(name: str, right: bool, confidence: float) -> Prediction:
    rest = (1 - confidence) / 3
    return Prediction(
        name, "A" if right else "B", "A", {"A": confidence, "B": rest, "C": rest, "D": rest}, 1.0, 1.0, "A"
    )


def answers(generator: np.random.Generator, count: int, too_sure: float) -> list[Prediction]:
    confidences = generator.uniform(0.3, 1.0, count)
    rights = generator.random(count) < confidences - too_sure
    return [answer(str(i), bool(r), float(c)) for i, (r, c) in enumerate(zip(rights, confidences, strict=True))]


def pairs(generator: np.random.Generator, chances: Sequence[Sequence[float]], count: int) -> list[Prediction]:
    """Items whose right letter (row) and predicted letter (column) come up with the given chances."""
    cells = generator.choice(np.size(chances), size=count, p=np.ravel(chances))
    letters = "ABCD"[: len(chances)]
    even = dict.fromkeys(letters, 1 / len(letters))
    return [
        Prediction(str(i), letters[cell // len(letters)], letters[cell % len(letters)], even, 1.0, 1.0, "A")
        for i, cell in enumerate(cells)
    ]


CHANCES = [[0.20, 0.06, 0.04], [0.05, 0.25, 0.05], [0.08, 0.07, 0.20]]


def test_wilson_holds_the_truth_at_its_nominal_rate_on_average() -> None:
    """Exact, not drawn: every count of right answers weighs with its binomial chance."""
    n, rates = 60, np.linspace(0.05, 0.95, 37)
    intervals = [wilson(count, n) for count in range(n + 1)]
    held = [
        sum(
            scipy.stats.binom.pmf(k, n, p) for k, interval in enumerate(intervals) if interval.low <= p <= interval.high
        )
        for p in rates
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)
    assert min(held) > 0.90


def test_precision_recall_and_f1_of_a_letter_hold_the_truth_at_their_nominal_rate() -> None:
    generator = np.random.default_rng(0)
    truth = {"precision": 0.25 / 0.38, "recall": 0.25 / 0.35, "f1": 2 * 0.25 / (0.38 + 0.35)}
    held = dict.fromkeys(truth, 0)
    for _ in range(250):
        scores = class_scores(pairs(generator, CHANCES, 150))["B"]
        for name, estimate in (("precision", scores.precision), ("recall", scores.recall), ("f1", scores.f1)):
            assert estimate is not None
            held[name] += estimate.low <= truth[name] <= estimate.high
    assert all(0.92 <= count / 250 <= 0.98 for count in held.values()), held


def test_macro_f1_interval_holds_the_truth_at_its_nominal_rate() -> None:
    generator = np.random.default_rng(0)
    table = np.array(CHANCES)
    truth = float(np.mean(2 * np.diag(table) / (table.sum(axis=0) + table.sum(axis=1))))
    held = 0
    for _ in range(200):
        interval = bootstrap_macro_f1(pairs(generator, CHANCES, 200), generator, resamples=400)
        held += interval.low <= truth <= interval.high
    assert 0.91 <= held / 200 <= 0.985


def test_brier_interval_holds_the_truth_at_its_nominal_rate() -> None:
    generator = np.random.default_rng(0)
    truth = np.mean([squared_error(item) for item in answers(generator, 100_000, 0.1)])
    held = 0
    for _ in range(200):
        values = [squared_error(item) for item in answers(generator, 150, 0.1)]
        interval = bootstrap_mean(values, generator, resamples=300)
        held += interval.low <= truth <= interval.high
    assert 0.91 <= held / 200 <= 0.985


@pytest.mark.parametrize("too_sure", [0.0, 0.08])
def test_ece_interval_holds_the_truth_at_its_nominal_rate(too_sure: float) -> None:
    """A calibrated model too, of which every estimate is above the truth; and no wider than it needs to be."""
    generator = np.random.default_rng(1)
    held, width = 0, 0.0
    for _ in range(120):
        items = answers(generator, 300, too_sure)
        interval = bootstrap_ece(items, equal_width_bins(items), generator, resamples=250)
        assert interval.low <= interval.value <= interval.high
        held += interval.low <= too_sure <= interval.high
        width += (interval.high - interval.low) / 120
    assert 0.91 <= held / 120 <= 0.99
    # an accuracy's interval is 0.11 wide at n = 300
    assert width < 0.13


@pytest.mark.slow
def test_temperature_interval_holds_the_truth_at_its_nominal_rate() -> None:
    generator = np.random.default_rng(0)
    held, width = 0, 0.0
    for seed in range(80):
        logits_NL, gold_N = letter_logits(drawn(150, 1.6, seed))  # sharpened by 1.6, which that temperature undoes
        interval = bootstrap_rows(
            150, partial(_temperature_of, logits_NL=logits_NL, gold_N=gold_N), generator, resamples=80
        )
        held += interval.low <= 1.6 <= interval.high
        width += (interval.high - interval.low) / 80
    assert 0.88 <= held / 80 <= 0.99
    assert width < 0.9


def _temperature_of(rows: Rows, logits_NL: Floats, gold_N: Columns) -> float:
    return best_temperature(logits_NL[rows], gold_N[rows])[0]


@pytest.mark.slow
def test_the_interval_of_the_area_under_risk_holds_the_truth_at_its_nominal_rate() -> None:
    generator = np.random.default_rng(0)
    truth = risk_area(answers(generator, 200_000, 0.1))
    held, width = 0, 0.0
    for _ in range(120):
        interval = coverage_curve(answers(generator, 200, 0.1), generator, resamples=120).risk_area
        held += interval.low <= truth <= interval.high
        width += (interval.high - interval.low) / 120
    assert 0.89 <= held / 120 <= 0.99
    assert width < 0.18


def test_ece_estimates_are_those_of_calibration_and_every_number_has_its_interval_and_n() -> None:
    items = answers(np.random.default_rng(2), 200, 0.1)
    estimates, numbers = calibration_estimates(items, np.random.default_rng(0)), calibration(items)
    assert estimates["ece"].value == pytest.approx(numbers.ece, abs=1e-12)
    assert estimates["ece_equal_mass"].value == pytest.approx(numbers.ece_equal_mass, abs=1e-12)
    assert estimates["brier"].value == pytest.approx(numbers.brier, abs=1e-12)
    assert estimates["letter_nll"].value == pytest.approx(numbers.letter_nll, abs=1e-12)
    assert all(one.n == 200 and one.low < one.value < one.high for one in estimates.values())


def test_ece_of_a_single_item_has_an_interval_too() -> None:
    item = [answer("q", True, 0.6)]
    interval = bootstrap_ece(item, equal_mass_bins(item), np.random.default_rng(0), resamples=100)
    assert interval.value == pytest.approx(0.4)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.too_few


def test_nothing_has_no_interval() -> None:
    generator = np.random.default_rng(0)
    for measure in (calibration_estimates, coverage_curve):
        with pytest.raises(DataError):
            measure([], generator)  # type: ignore[operator]
    with pytest.raises(DataError):
        bootstrap_rows(0, lambda rows: 0.0, generator)
    with pytest.raises(DataError):
        f1_estimate(0, 0)


def test_risk_area_of_a_worked_example() -> None:
    # the k surest, k = 1..4: risks 0, 1/2, 1/3, 1/2
    items = [answer("a", True, 0.9), answer("b", False, 0.8), answer("c", True, 0.7), answer("d", False, 0.6)]
    assert risk_area(items) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4, abs=1e-12)
    assert risk_area(items[::-1]) == risk_area(items)


def test_answers_of_equal_confidence_are_given_together() -> None:
    items = [answer("a", True, 0.9), answer("b", False, 0.7), answer("c", True, 0.7)]
    curve = coverage_curve(items, np.random.default_rng(0))
    assert [(round(point.coverage, 3), point.accuracy.value) for point in curve.points] == [
        (0.333, 1.0),
        (1.0, pytest.approx(2 / 3)),
    ]
    # whichever of b and c comes first, both count with the risk of three answers
    assert risk_area(items) == pytest.approx((0 + 1 / 3 + 1 / 3) / 3, abs=1e-12)


def test_the_last_point_of_the_curve_answers_everything() -> None:
    items = answers(np.random.default_rng(3), 400, 0.0)
    curve = coverage_curve(items, np.random.default_rng(0), resamples=200)
    assert len(curve.points) <= 45
    last = curve.points[-1]
    assert (last.coverage, last.accuracy) == (1.0, calibration(items).accuracy)
    assert curve.points[0].accuracy.value > last.accuracy.value
    assert curve.risk_area.low < curve.risk_area.value < curve.risk_area.high
    # sure where right: less risk on the way than at the end
    assert curve.risk_area.value < 1 - last.accuracy.value

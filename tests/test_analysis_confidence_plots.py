"""The figures of confidence are drawn from JSON content, and show what they are told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysis_fakes import make_predictions, make_questions
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.confidence_plots import draw_coverage, draw_gold_positions, draw_reliability
from analysis.coverage import coverage_curve
from analysis.intervals import calibration_estimates
from analysis.plot_style import with_interval
from medqa.calibration import calibration
from medqa.estimates import wilson
from medqa.temperature import apply_temperature, fit_temperature

MODELS = ("zero_shot", "few_shot", "fine_tuned")


def as_json(record: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(record)))


def texts(figure: Figure, folder: Path) -> str:
    FigureCanvasAgg(figure)
    figure.savefig(folder / "figure.png")
    assert (folder / "figure.png").stat().st_size > 10_000
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return " | ".join([*labels, *(axes.get_title() for axes in figure.axes)])


@pytest.mark.parametrize("count", [1, 300])
def test_reliability_shows_both_errors_with_intervals_and_the_temperature(count: int, tmp_path: Path) -> None:
    test = make_predictions(make_questions(count), 0.6, seed=1)
    fitted = fit_temperature(make_predictions(make_questions(200), 0.6, seed=2))
    warm = apply_temperature(test, fitted.value)
    generator = np.random.default_rng(0)
    estimates = {
        name: {key: as_json(one) for key, one in calibration_estimates(items, generator).items()}
        for name, items in (("before", test), ("after", warm))
    }
    figure = draw_reliability(as_json(calibration(test)), as_json(calibration(warm)), as_json(fitted), estimates)
    shown = texts(figure, tmp_path)
    assert f"temperature of {fitted.value:.2f}" in shown
    for one in estimates.values():
        assert f"ECE {one['ece']['value']:.3f} ({one['ece']['low']:.3f} to" in shown
        assert f"mean confidence {with_interval(one['mean_confidence'])}" in shown


def test_coverage_shows_each_models_area_with_its_interval(tmp_path: Path) -> None:
    curves = {
        model: as_json(
            coverage_curve(make_predictions(make_questions(300), 0.5, seed), np.random.default_rng(0), resamples=50)
        )
        for seed, model in enumerate(MODELS)
    }
    shown = texts(draw_coverage(curves), tmp_path)
    assert all(f"area under risk {curve['risk_area']['value']:.3f} (" in shown for curve in curves.values())


def test_gold_positions_show_each_models_test(tmp_path: Path) -> None:
    rates = {
        model: {letter: as_json(wilson(40 + 5 * place + 3 * index, 100)) for place, letter in enumerate("ABCD")}
        for index, model in enumerate(MODELS)
    }
    tests = {model: {"statistic": 9.5 + index, "p_value": 0.023} for index, model in enumerate(MODELS)}
    shown = texts(draw_gold_positions(rates, tests), tmp_path)
    assert "zero-shot base: Cochran's Q 9.5 (p = 0.023)" in shown
    assert "tuned: Cochran's Q 11.5" in shown

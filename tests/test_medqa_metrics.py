"""Numbers against worked examples, published figures and SciPy; nothing is measured against itself."""

import json
import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from medqa.calibration import calibration
from medqa.errors import DataError
from medqa.estimates import TOO_FEW, chi_squared, stuart_maxwell, wilson
from medqa.metrics import (
    accuracy,
    class_scores,
    classification_report,
    confusion_matrix,
    extraction_failure_rate,
    letter_balance,
    macro_f1,
    study_results,
    topic_accuracy,
)
from medqa.prediction import Prediction
from medqa.questions import Question
from medqa.record import predictions_from_rows

GOLD = [353, 309, 346, 265]


def prediction(name: str, gold: str, pred: str, confidence: float = 0.7, raw: str | None = None) -> Prediction:
    rest = (1 - confidence) / 3
    probabilities = {letter: confidence if letter == pred else rest for letter in "ABCD"}
    return Prediction(
        id=name,
        gold=gold,
        pred=pred,
        probabilities=probabilities,
        letter_mass=1.0,
        gold_nll=-math.log(probabilities[gold]),
        raw_output=pred if raw is None else raw,
    )


def several(pairs: str, confidence: float = 0.7) -> list[Prediction]:
    return [prediction(f"q{index}", pair[0], pair[1], confidence) for index, pair in enumerate(pairs.split())]


def question(name: str, answer: str, text: str = "Which?") -> Question:
    return Question(name, text, {letter: f"option {letter}" for letter in "ABCD"}, answer)


def test_wilson_gives_the_textbook_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17, 857-872, table I: 81 of 263, without continuity correction
    interval = wilson(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)
    assert interval.n == 263


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (57, 100, 0.47215389549212305, 0.6626670147588988),
        (731, 1273, 0.5468885958059686, 0.6011329135947072),
        (3, 7, 0.15821985525146964, 0.7495416354723428),
    ],
)
def test_wilson_is_that_of_statsmodels(successes: int, n: int, low: float, high: float) -> None:
    # statsmodels 0.15.0, proportion_confint(method="wilson")
    interval = wilson(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("successes", "low", "high"), [(0, 0.0, 0.2775), (10, 0.7225, 1.0)])
def test_wilson_stays_within_0_and_1_where_all_or_nothing_is_right(successes: int, low: float, high: float) -> None:
    interval = wilson(successes, 10)
    assert interval.low == pytest.approx(low, abs=1e-4)
    assert interval.high == pytest.approx(high, abs=1e-4)


@pytest.mark.parametrize(
    ("predicted", "published"),
    [([308, 216, 335, 399], 55.0), ([339, 291, 379, 243], 33.3), ([330, 351, 355, 235], 29.9)],
)
def test_chi_squared_against_equal_letters_gives_the_published_figures(predicted: list[int], published: float) -> None:
    assert chi_squared(predicted, [1, 1, 1, 1]).statistic == pytest.approx(published, abs=0.05)


def test_chi_squared_against_uneven_counts_agrees_with_scipy() -> None:
    predicted = [339, 291, 379, 243]
    scaled = [count * sum(predicted) / sum(GOLD) for count in GOLD]
    assert chi_squared(predicted, GOLD).p_value == pytest.approx(scipy.stats.chisquare(predicted, scaled).pvalue)


VISION = [[1520, 266, 124, 66], [234, 1512, 432, 78], [117, 362, 1772, 205], [36, 82, 179, 492]]
"""Right and left eyes of 7,477 women by grade of vision: the example of Stuart 1955, Biometrika 42, 412-416."""


@pytest.mark.parametrize(
    ("counts", "statistic", "p_value"),
    [
        (VISION, 11.956569622982544, 0.007533425054800591),
        ([[20, 10, 5], [3, 30, 15], [0, 5, 40]], 13.76470588235294, 0.0010257277265580678),
        (
            [[200, 60, 50, 43], [70, 150, 40, 49], [60, 80, 160, 46], [50, 40, 45, 130]],
            8.694820358489297,
            0.03363602517021791,
        ),
    ],
)
def test_stuart_maxwell_is_that_of_statsmodels(counts: list[list[int]], statistic: float, p_value: float) -> None:
    # statsmodels 0.15.0, SquareTable(counts, shift_zeros=False).homogeneity(method="stuart_maxwell")
    result = stuart_maxwell(counts)
    assert (result.statistic, result.p_value) == pytest.approx((statistic, p_value), abs=1e-9)
    assert (result.degrees_of_freedom, result.n) == (len(counts) - 1, np.sum(counts))


def test_stuart_maxwell_gives_the_published_figure_and_that_of_mcnemar_for_two_classes() -> None:
    # the R package coin, help page of its data set vision: Q = 11.96
    assert round(stuart_maxwell(VISION).statistic, 2) == 11.96
    # McNemar 1947: (b - c)^2 / (b + c)
    assert stuart_maxwell([[40, 12], [3, 45]]).statistic == pytest.approx((12 - 3) ** 2 / 15, abs=1e-9)


def test_stuart_maxwell_leaves_out_what_is_never_mistaken() -> None:
    whole = stuart_maxwell([[20, 10, 5], [3, 30, 15], [0, 5, 40]])
    with_more = stuart_maxwell([[20, 10, 5, 0], [3, 30, 15, 0], [0, 5, 40, 0], [0, 0, 0, 9]])
    assert with_more.statistic == pytest.approx(whole.statistic, abs=1e-9)
    assert (with_more.degrees_of_freedom, with_more.n) == (2, whole.n + 9)
    # two pairs of letters, never taken for those of the other: the statistics of two McNemar tests add up
    parts = stuart_maxwell([[9, 8, 0, 0], [2, 9, 0, 0], [0, 0, 9, 7], [0, 0, 4, 9]])
    assert parts.statistic == pytest.approx((8 - 2) ** 2 / 10 + (7 - 4) ** 2 / 11, abs=1e-9)
    assert parts.degrees_of_freedom == 2
    # always one letter: the column holds every mistake
    assert stuart_maxwell([[5, 0], [9, 0]]).statistic == pytest.approx(9, abs=1e-9)
    assert stuart_maxwell([[5, 0], [0, 9]]).p_value == 1.0
    with pytest.raises(DataError, match="no pairs"):
        stuart_maxwell([[0, 0], [0, 0]])


@pytest.mark.parametrize("known", [0.0, 0.33, 0.87])  # accuracies of 25, 50 and 90 %: the rest is guessed
def test_letters_predicted_as_often_as_right_are_called_uneven_at_the_nominal_rate(known: float) -> None:
    """Also by a good model; Pearson's test with the right letters as fixed expectations does so in 29 to 0 %."""
    generator = np.random.default_rng(0)
    shares = np.array(GOLD) / sum(GOLD)
    chances = known * np.diag(shares) + (1 - known) * np.outer(shares, shares)
    tables = generator.multinomial(1_273, chances.ravel(), size=1_000).reshape(-1, 4, 4)
    called = sum(stuart_maxwell(table.tolist()).p_value < 0.05 for table in tables)
    assert 0.03 <= called / 1_000 <= 0.07


def test_letter_balance_tests_the_letters_against_the_right_ones_of_the_same_questions() -> None:
    items = several("AA " * 20 + "AB " * 10 + "AC " * 5 + "BA " * 3 + "BB " * 30 + "BC " * 15 + "CB " * 5 + "CC " * 40)
    balance = letter_balance(items)
    assert balance.against_gold.statistic == pytest.approx(13.76470588235294, abs=1e-9)
    assert (balance.against_gold.degrees_of_freedom, balance.against_gold.n) == (2, 128)


def test_letter_balance_expects_the_fifth_letter_only_where_it_is_offered() -> None:
    four = prediction("four", "A", "A")
    five = Prediction("five", "E", "E", dict.fromkeys("ABCDE", 0.2), 1.0, 1.6, "E")
    balance = letter_balance([four, five])
    expected = [0.45, 0.45, 0.45, 0.45, 0.2]
    assert balance.against_uniform.statistic == pytest.approx(
        scipy.stats.chisquare([1, 0, 0, 0, 1], expected).statistic
    )
    assert (balance.against_gold.degrees_of_freedom, balance.against_gold.p_value) == (0, 1.0)


def test_a_prediction_counts_as_extracted_when_the_top_token_is_a_letter_with_or_without_space() -> None:
    items = [prediction("a", "A", "A", raw=" A"), prediction("b", "B", "A", raw="The")]
    assert extraction_failure_rate(items).value == 0.5


def test_confusion_counts_sum_to_n_with_right_letters_in_rows() -> None:
    matrix = confusion_matrix(several("AA AB AB BB CD DD"))
    assert matrix == [[1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]


def test_macro_f1_is_the_plain_mean_over_letters() -> None:
    # F1: A 2*1/(2+0+2) = 1/2, B 2*1/(2+2+0) = 1/2, C 0, D 2*1/(2+1) = 2/3
    assert macro_f1(several("AA AB AB BB CD DD")) == pytest.approx((1 / 2 + 1 / 2 + 0 + 2 / 3) / 4)


def test_classification_report_is_scikit_learns() -> None:
    items = several("AA AB BB CC CD DD DA")
    gold, pred = [item.gold for item in items], [item.pred for item in items]
    report = classification_report(items)
    assert report["macro avg"]["f1-score"] == pytest.approx(sklearn.metrics.f1_score(gold, pred, average="macro"))
    assert report["A"]["support"] == 2


def test_scores_of_each_letter_are_scikit_learns() -> None:
    items = several("AA AB BB CC CD DD DA BC AA CB DD")
    gold, pred = [item.gold for item in items], [item.pred for item in items]
    expected = sklearn.metrics.precision_recall_fscore_support(gold, pred, labels=list("ABCD"))
    for index, scores in enumerate(class_scores(items).values()):
        assert scores.precision is not None
        assert scores.recall is not None
        assert scores.f1 is not None
        values = (scores.precision.value, scores.recall.value, scores.f1.value, scores.recall.n)
        assert values == pytest.approx(tuple(part[index] for part in expected), abs=1e-12)


def test_scores_of_a_letter_have_the_intervals_of_their_proportions() -> None:
    # of 4 items called A, 2 are; of 3 items that are A, 2 are called it; 5 items are A or called it
    scores = class_scores(several("AA AA BA CA AB BB"))["A"]
    assert (scores.precision, scores.recall) == (wilson(2, 4), wilson(2, 3))
    assert scores.f1 is not None
    jaccard = wilson(2, 5)
    assert (scores.f1.low, scores.f1.high) == pytest.approx(
        tuple(2 * end / (1 + end) for end in (jaccard.low, jaccard.high)), abs=1e-12
    )
    assert scores.f1.n == 5


def test_a_letter_that_never_occurs_has_no_scores_and_not_0() -> None:
    scores = class_scores(several("AA AB BB"))
    assert (scores["D"].precision, scores["D"].recall, scores["D"].f1) == (None, None, None)
    assert class_scores(several("AB"))["B"].recall is None
    assert class_scores(several("AB"))["A"].precision is None


def test_an_estimate_of_fewer_items_than_stated_is_too_few() -> None:
    assert wilson(10, TOO_FEW - 1).too_few
    assert not wilson(10, TOO_FEW).too_few
    widest = wilson(10, TOO_FEW)
    assert widest.high - widest.low == pytest.approx(0.40, abs=0.01)


def test_ece_of_a_worked_example() -> None:
    # bin [.8, .9): 2 items, 1 right, gap |.85 - .5| = .35; bin [.4, .5): 2 items, 1 right, gap |.45 - .5| = .05
    sure, unsure = several("AA AB", 0.85), several("CC CD", 0.45)
    result = calibration([*sure, *unsure])
    assert result.ece == pytest.approx((2 * 0.35 + 2 * 0.05) / 4)
    assert [item.accuracy.n for item in result.bins] == [2, 2]
    assert result.mean_confidence == pytest.approx(0.65)


def test_ece_of_one_bin_is_the_gap_between_mean_confidence_and_accuracy() -> None:
    items = [*several("AA AB BB", 0.9), *several("CC CD", 0.3)]
    result = calibration(items, bins=1)
    assert result.ece == pytest.approx(abs(result.mean_confidence - result.accuracy.value))


def test_ece_of_a_calibrated_model_is_near_0() -> None:
    generator = np.random.default_rng(0)
    items = []
    for index, confidence in enumerate(generator.uniform(0.3, 1.0, 20_000)):
        gold = "A" if generator.random() < confidence else "B"
        items.append(prediction(str(index), gold, "A", float(confidence)))
    assert calibration(items).ece < 0.015


def test_brier_and_nll_of_a_worked_example() -> None:
    result = calibration([prediction("a", "A", "A", 0.7), prediction("b", "B", "A", 0.7)])
    right = 0.3**2 + 3 * 0.1**2
    wrong = 0.7**2 + 0.9**2 + 2 * 0.1**2
    assert result.brier == pytest.approx((right + wrong) / 2)
    assert result.letter_nll == pytest.approx(-(math.log(0.7) + math.log(0.1)) / 2)


def test_full_confidence_falls_into_the_last_bin() -> None:
    assert calibration(several("AA", 1.0)).bins[0].high == 1.0


def test_topic_counts_sum_to_all_items() -> None:
    rates = topic_accuracy(several("AA AB BB"), ["Neurology", "Cardiology", "Neurology"])
    assert list(rates) == ["Cardiology", "Neurology"]
    assert sum(rate.n for rate in rates.values()) == 3
    assert rates["Neurology"].value == 1.0


@pytest.mark.parametrize(
    "measure",
    [
        accuracy,
        extraction_failure_rate,
        macro_f1,
        confusion_matrix,
        classification_report,
        class_scores,
        calibration,
        letter_balance,
    ],
)
def test_no_predictions_raise_and_never_give_a_number(measure: object) -> None:
    with pytest.raises(DataError):
        measure([])  # type: ignore[operator]


def test_study_results_have_the_keys_of_the_study_and_survive_json() -> None:
    items = several("AA AB BB CC")
    questions = [question(item.id, item.gold) for item in items]
    results = json.loads(json.dumps(study_results(items, questions)))
    assert results["overall_accuracy"] == 0.75
    assert (results["n_correct"], results["n_total"]) == (3, 4)
    assert set(results) >= {"macro_f1", "per_topic_accuracy", "classification_report", "extraction_failure_rate"}
    assert set(results["predictions"][0]) >= {"idx", "gold", "pred", "raw_output", "correct", "topic"}
    assert list(predictions_from_rows(results["predictions"])) == items


def test_study_results_refuse_predictions_of_other_questions() -> None:
    with pytest.raises(DataError, match="not those of the questions"):
        study_results(several("AA"), [question("other", "A")])

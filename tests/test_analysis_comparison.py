"""Paired statistics against SciPy, worked examples and their nominal rate."""

import numpy as np
import pytest
import scipy.stats
from analysis_fakes import make_predictions, make_questions

from analysis.comparison import against_one, by_topic, holm, mcnemar_p, paired_difference, paired_margin
from analysis.finding_files import compare_configurations
from analysis.intervals import bootstrap_macro_f1, bootstrap_mean
from medqa.errors import DataError
from medqa.metrics import macro_f1
from medqa.prediction import Prediction


def predictions(pairs: str) -> list[Prediction]:
    uniform = dict.fromkeys("ABCD", 0.25)
    return [Prediction(f"q{i}", pair[0], pair[1], uniform, 1.0, 1.4, pair[1]) for i, pair in enumerate(pairs.split())]


@pytest.mark.parametrize(("first", "second"), [(10, 3), (0, 6), (121, 59), (5, 5)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    assert mcnemar_p(first, second) == pytest.approx(
        scipy.stats.binomtest(first, first + second, 0.5).pvalue, abs=1e-12
    )


def test_mcnemar_of_six_to_none_is_one_in_32() -> None:
    assert mcnemar_p(6, 0) == pytest.approx(2 / 2**6)


def test_mcnemar_gives_the_published_exact_p_value() -> None:
    # Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology 13:91: 1 against 7, exact p = 0.070
    assert round(mcnemar_p(1, 7), 3) == 0.070
    # statsmodels 0.15.0, mcnemar(exact=True)
    assert mcnemar_p(121, 59) == pytest.approx(4.4344492637551645e-06, rel=1e-9)


def test_models_that_never_disagree_have_a_p_value_of_1() -> None:
    assert mcnemar_p(0, 0) == 1.0


def test_paired_difference_counts_the_items_only_one_model_has_right() -> None:
    first, second = predictions("AA BB CC DA AA"), predictions("AA BA CA DD AA")
    result = paired_difference(first, second, np.random.default_rng(0))
    assert (result.only_first_right, result.only_second_right) == (2, 1)
    assert result.difference.value == pytest.approx(1 / 5)
    assert result.difference.low <= result.difference.value <= result.difference.high


def test_paired_difference_refuses_different_items() -> None:
    with pytest.raises(DataError, match="same questions"):
        paired_difference(predictions("AA BB"), predictions("AA"), np.random.default_rng(0))


def test_bootstrap_agrees_with_scipys_percentile_interval() -> None:
    values = [1.0] * 60 + [0.0] * 30 + [-1.0] * 10
    ours = bootstrap_mean(values, np.random.default_rng(0))
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.011)


def test_the_same_generator_seed_gives_the_same_interval() -> None:
    values = [1.0, 0.0, 1.0, 1.0, 0.0]
    assert bootstrap_mean(values, np.random.default_rng(7)) == bootstrap_mean(values, np.random.default_rng(7))


def test_bootstrap_of_nothing_raises() -> None:
    with pytest.raises(DataError):
        bootstrap_mean([], np.random.default_rng(0))


def test_bootstrap_interval_covers_the_truth_at_about_its_nominal_rate() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        sample = generator.choice([1.0, 0.0, -1.0], size=200, p=[0.3, 0.6, 0.1])
        interval = bootstrap_mean(list(sample), generator, resamples=400)
        covered += interval.low <= 0.2 <= interval.high
    assert 0.91 <= covered / 300 <= 0.985


def test_macro_f1_interval_encloses_macro_f1_and_agrees_with_resampling_items() -> None:
    items = predictions("AA AA AB BB BB BC CC CC CA DD DD DA " * 10)
    items = [Prediction(f"i{i}", p.gold, p.pred, p.probabilities, 1.0, 1.4, p.raw_output) for i, p in enumerate(items)]
    ours = bootstrap_macro_f1(items, np.random.default_rng(0))
    generator = np.random.default_rng(1)
    slow = [macro_f1([items[i] for i in generator.integers(0, len(items), len(items))]) for _ in range(300)]
    assert ours.value == macro_f1(items)
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.03)


def test_a_margin_of_means_over_seeds_is_paired_by_question() -> None:
    questions = make_questions(200)
    first = [make_predictions(questions, 0.7, seed) for seed in (1, 2, 3)]
    second = [make_predictions(questions, 0.5, seed) for seed in (4, 5, 6)]
    margin = paired_margin(first, second, "accuracy", np.random.default_rng(0))
    rates = [np.mean([[item.correct for item in one] for one in side]) for side in (first, second)]
    assert margin.value == pytest.approx(rates[0] - rates[1])
    assert 0 < margin.low < margin.value < margin.high
    alone = paired_margin(first[:1], second[:1], "accuracy", np.random.default_rng(0))
    assert alone == paired_difference(first[0], second[0], np.random.default_rng(0)).difference
    nats = paired_margin(first[:1], second[:1], "answer_nll", np.random.default_rng(0))
    lost = [np.mean([item.gold_nll for item in side[0]]) for side in (first, second)]
    assert nats.value == pytest.approx(lost[1] - lost[0])
    with pytest.raises(DataError, match="same questions"):
        paired_margin(first, [second[0][:-1]], "accuracy", np.random.default_rng(0))


def test_holm_gives_the_textbook_correction() -> None:
    # the example of Wikipedia's "Holm-Bonferroni method": 0.005 and 0.01 stay below 0.05, 0.03 and 0.04 do not
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-12)
    assert holm([]) == []
    assert holm([0.7]) == [0.7]


def test_holm_is_that_of_statsmodels() -> None:
    p_values = [0.0004, 0.21, 0.012, 0.049, 0.0131, 0.6, 0.003, 0.049]
    # statsmodels 0.15.0, multipletests(p_values, method="holm")
    published = [0.0032, 0.42, 0.072, 0.196, 0.072, 0.6, 0.021, 0.196]
    assert holm(p_values) == pytest.approx(published, abs=1e-12)


def test_holm_keeps_the_chance_of_any_false_rejection_below_its_level() -> None:
    generator = np.random.default_rng(0)
    false = sum(min(holm(list(generator.random(8)))) < 0.05 for _ in range(4_000))
    assert 0.04 < false / 4_000 < 0.06


def test_the_winner_is_compared_with_each_other_training_corrected_by_holm() -> None:
    winner = predictions("AA " * 30)
    rights = {"far": 18, "near": 27, "same": 30}  # of 30: the winner alone is right 12, 3 and 0 times
    others = {name: predictions("AA " * count + "AB " * (30 - count)) for name, count in rights.items()}
    content = compare_configurations("w", winner, {**others, "on a sample": predictions("AA " * 20), "lost": ()})
    assert (content["split"], content["first"], content["left_out"]) == ("validation", "w", ["on a sample", "lost"])
    pairs = content["pairs"]
    assert {name: one["pair"]["only_first_right"] for name, one in pairs.items()} == {"far": 12, "near": 3, "same": 0}
    # exact McNemar: 2 / 2^12 and 2 / 2^3; of three comparisons, Holm's factors are 3, 2 and 1
    assert [one["pair"]["p_value"] for one in pairs.values()] == pytest.approx([2 / 2**12, 2 / 2**3, 1.0], abs=1e-12)
    assert [one["holm_p"] for one in pairs.values()] == pytest.approx([3 * 2 / 2**12, 2 * 2 / 2**3, 1.0], abs=1e-12)


def test_configurations_are_compared_with_one_and_corrected_for_their_number() -> None:
    questions = make_questions(300)
    reference = make_predictions(questions, 0.5, seed=1)
    models = {f"trial_{seed}": make_predictions(questions, 0.5 + 0.1 * seed, seed + 10) for seed in range(3)}
    compared = against_one(models, reference, np.random.default_rng(0))
    assert list(compared) == list(models)
    assert [one.holm_p for one in compared.values()] == holm([one.pair.p_value for one in compared.values()])
    assert (compared["trial_2"].holm_p or 0) < 0.01 < (compared["trial_0"].holm_p or 0)


def test_topics_with_too_few_questions_are_shown_and_not_tested() -> None:
    questions = make_questions(120)
    first, second = make_predictions(questions, 0.9, seed=1), make_predictions(questions, 0.3, seed=2)
    topics = ["Cardiology"] * 60 + ["Neurology"] * 55 + ["Oncology"] * 5
    compared = by_topic(first, second, topics, np.random.default_rng(0))
    assert list(compared) == ["Cardiology", "Neurology", "Oncology"]
    assert sum(one.pair.difference.n for one in compared.values()) == 120
    assert compared["Oncology"].holm_p is None
    assert compared["Oncology"].pair.difference.too_few
    tested = [compared[topic] for topic in ("Cardiology", "Neurology")]
    assert [one.holm_p for one in tested] == holm([one.pair.p_value for one in tested])


def test_paired_difference_holds_the_truth_at_its_nominal_rate() -> None:
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        first, second = generator.random(150) < 0.6, generator.random(150) < 0.5
        gains = first.astype(float) - second.astype(float)
        interval = bootstrap_mean(list(gains), generator, resamples=300)
        held += interval.low <= 0.1 <= interval.high
    assert 0.91 <= held / 200 <= 0.985

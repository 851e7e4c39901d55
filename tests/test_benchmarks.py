"""The recorded learning curves are whole, and replayed searches are what they say they are."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from curve_tables import Table, demo_table, study_table
from demo_curves import FILE, REPEATED, SEEDS, jobs, read_rows
from search_efficiency import one_epoch_then_top, replay
from search_methods import METHODS, Ours, Report

from medqa.presets import PRESETS


@pytest.fixture(scope="module")
def demo() -> Table:
    return demo_table()


def test_the_table_has_what_its_description_says() -> None:
    rows = read_rows()
    assert FILE.stat().st_size < 2_000_000
    assert [row["preset"] for row in rows if row["preset"] and row["seed"] == SEEDS[0]] == list(PRESETS)
    seeds = Counter(row["number"] for row in rows)
    assert len(seeds) == 354
    assert sum(count == len(SEEDS) for count in seeds.values()) == REPEATED
    for row in rows:
        examples = [point[0] for point in row["curve"]]
        assert examples == sorted(set(examples))
        assert examples[-1] == round(1024 * row["config"]["num_train_epochs"])
        assert all(0 <= point[1] <= 1 for point in row["curve"])


def test_the_maker_draws_the_configurations_of_the_table() -> None:
    wanted = {job.key: job.config for job in jobs(368)}
    for row in read_rows():
        config = wanted[row["number"], row["seed"]]
        assert {name: getattr(config, name) for name in row["config"]} == row["config"]


def test_a_proposal_is_answered_by_the_nearest_trial_that_is_left(demo: Table) -> None:
    point = demo.points[7]
    assert demo.nearest(point, set()) == 7
    other = demo.nearest(point, {7})
    assert other != 7
    assert demo.nearest(point, {7, other}) not in (7, other)


def test_all_presets_to_their_end_cost_what_the_study_says_and_find_its_best() -> None:
    table = study_table()
    found = replay(table, Ours(table, 0, only_presets=True), 100.0, 1)
    assert found[-1][1] == table.best == -0.951495
    assert sum(curve.costs[-1] for curve in table.curves) == pytest.approx((4 * 900 + 1500 + 1200) * 16 / 10_178)


@pytest.mark.parametrize("name", METHODS)
def test_a_replay_depends_on_its_seed_alone_and_keeps_to_its_budget(name: str, demo: Table) -> None:
    first, again = (replay(demo, METHODS[name](demo, 5), 20.0, 2) for _ in range(2))
    assert first == again
    assert all(cost <= 20.0 for cost, _ in first)
    assert [value for _, value in first] == sorted({value for _, value in first})


def test_our_search_is_never_worse_than_the_best_preset(demo: Table) -> None:
    best_preset = max(demo.curves[index].final for index in demo.presets)
    for seed in range(3):
        assert replay(demo, METHODS["ours"](demo, seed), 20.0, 1)[-1][1] >= best_preset


def test_one_epoch_then_the_best_spends_no_more_than_it_may(demo: Table) -> None:
    assert one_epoch_then_top(demo, 0, 0.5, 3) == float("-inf")
    assert one_epoch_then_top(demo, 0, 30.0, 3) >= one_epoch_then_top(demo, 0, 5.0, 3)


class InOrder(Ours):
    """Our rungs over the presets in a given order."""

    def __init__(self, table: Table, order: tuple[int, ...], by_share: bool) -> None:
        super().__init__(table, 0, prunes_presets=True, only_presets=True, by_share=by_share)
        self.waiting = list(order)

    def ended(self, report: Report) -> None:
        pass


def test_on_the_study_s_curves_equal_shares_find_the_best_preset_and_equal_steps_do_not() -> None:
    table = study_table()
    found = {}
    for by_share in (True, False):
        values = [
            replay(table, InOrder(table, order, by_share), 100.0, 1)[-1][1]
            for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 10)
        ]
        found[by_share] = sum(value == table.best for value in values) / len(values)
    assert found[True] > 0.8
    assert found[False] < 0.5

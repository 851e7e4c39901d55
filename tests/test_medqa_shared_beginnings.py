"""Tokens with which all sequences of a packed row begin lie there once; all comes out as if each had them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_medqa_speedups import ALIKE, CONFIG, losses

from medqa import fused_lora, packing, training
from medqa.config import Task
from medqa.course import collate
from medqa.model import BaseModel, compute_dtype, compute_in, load_base
from medqa.packing import pack, shared_tokens
from medqa.questions import Question, load_search_questions
from medqa.scoring import score_questions
from medqa.speedups import ALL

SEQUENCES = [[1, 7, 7, 3, 4], [1, 7, 7, 5], [1, 7, 7, 3, 4, 6]]


@pytest.fixture
def base(task: Task) -> Iterator[BaseModel]:
    base = load_base(task)
    compute_in(base.model, torch.float32)
    yield base
    compute_in(base.model, compute_dtype())


@pytest.fixture
def questions(task: Task) -> tuple[Question, ...]:
    return tuple(load_search_questions(task.data).validation)


def test_the_first_sequence_stands_whole_and_the_others_look_on_its_beginning() -> None:
    row = pack([torch.tensor(sequence) for sequence in SEQUENCES], shared=2)
    assert row["input_ids"].tolist() == [[1, 7, 7, 3, 4, 7, 5, 7, 3, 4, 6]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 3, 2, 3, 4, 5]]
    assert row["cu_seq_lens_q"].tolist() == [0, 5, 7, 11]
    assert row["cu_seq_lens_k"].tolist() == [0, 5, 9, 15]
    assert (row["max_length_q"], row["max_length_k"]) == (5, 6)
    looked_on = row["input_ids"][0, row["looked_on"]].split([5, 4, 6])
    assert [part.tolist() for part in looked_on] == SEQUENCES
    assert "looked_on" not in pack([torch.tensor(sequence) for sequence in SEQUENCES])


def test_one_token_less_than_all_begin_with_is_shared_if_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    long = [[*range(20), 90 + number, 95] for number in range(3)]
    assert shared_tokens(long, at_most=50) == 19
    assert shared_tokens(long, at_most=12) == 12
    assert shared_tokens(long, at_most=packing._FEWEST_SHARED - 1) == 0
    assert shared_tokens(long[:1], at_most=50) == 0
    assert shared_tokens([long[0], long[0]], at_most=50) == 21  # a token is left to each
    assert shared_tokens(SEQUENCES, at_most=50) == 0
    monkeypatch.setattr(packing, "_FEWEST_SHARED", 1)
    assert shared_tokens(SEQUENCES, at_most=50) == 2


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_token_that_lies_there_once_has_the_weight_of_all(weight: float) -> None:
    alone = collate(ALIKE, 0, weight, packed=True)
    shared = collate(ALIKE, 0, weight, packed=True, share_beginning=True)
    assert alone["input_ids"].numel() - shared["input_ids"].numel() == 2 * 12
    assert float(shared["loss_weights"].sum()) == pytest.approx(float(alone["loss_weights"].sum()))
    assert by_token(shared) == pytest.approx(by_token(alone))
    before = shared["predicting_positions"]
    assert len(before) == int((shared["loss_weights"] != 0).sum())


def by_token(row: dict[str, Any]) -> dict[tuple[int, int], float]:
    """Token and the place in its sequence to the weights of all such."""
    sums: dict[tuple[int, int], float] = {}
    places = zip(*(row[name][0].tolist() for name in ("input_ids", "position_ids", "loss_weights")), strict=True)
    for token, place, weight in places:
        sums[token, place] = sums.get((token, place), 0.0) + weight
    return sums


@pytest.mark.parametrize(("dropout", "is_shared"), [(0.0, True), (0.1, False)])
def test_a_trial_shares_beginnings_where_nothing_is_dropped(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float, is_shared: bool
) -> None:
    seen = rows_seen(monkeypatch)
    losses(dataclasses.replace(CONFIG, lora_dropout=dropout), task, tmp_path / "trial")
    assert seen
    assert all(("looked_on" in row) == is_shared for row in seen)


def test_a_trial_that_may_not_share_does_not(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, config = rows_seen(monkeypatch), dataclasses.replace(CONFIG, lora_dropout=0.0)
    losses(config, task, tmp_path / "trial", dataclasses.replace(ALL, shared_beginnings=False))
    assert seen
    assert not any("looked_on" in row for row in seen)


def rows_seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    def kept(*args: Any, **kwargs: Any) -> dict[str, Any]:
        seen.append(collate(*args, **kwargs))
        return dict(seen[-1])

    monkeypatch.setattr(training, "collate", kept)
    return seen


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "not fused"])
@pytest.mark.parametrize("with_lm_loss", [True, False])
def test_scores_are_those_of_questions_that_share_nothing(
    base: BaseModel,
    questions: tuple[Question, ...],
    monkeypatch: pytest.MonkeyPatch,
    fused: bool,
    with_lm_loss: bool,
) -> None:
    tokens: list[int] = []
    with base.new_adapter(CONFIG, fused=fused) as model:
        torch.nn.init.normal_(next(value for name, value in model.named_parameters() if "lora_B" in name), std=0.1)
        inner = model.get_base_model()
        inner.get_input_embeddings().register_forward_hook(lambda module, args, output: tokens.append(args[0].numel()))
        hook = list(inner.get_input_embeddings()._forward_hooks)[-1]
        shared = score_questions(inner, base.encoder, questions, with_lm_loss=with_lm_loss)
        monkeypatch.setattr(packing, "_FEWEST_SHARED", 10**6)
        alone = score_questions(inner, base.encoder, questions, with_lm_loss=with_lm_loss)
        del inner.get_input_embeddings()._forward_hooks[hook]
    assert tokens[0] < tokens[1]
    assert [one.pred for one in shared.predictions] == [one.pred for one in alone.predictions]
    for one, other in zip(shared.predictions, alone.predictions, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-4)
        assert one.gold_nll == pytest.approx(other.gold_nll, rel=1e-5)
    assert shared.lm_loss == (pytest.approx(alone.lm_loss, rel=1e-6) if with_lm_loss else None)


def test_the_first_layers_frozen_weights_are_not_asked_for_a_gradient(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes before it is not trained."""
    asked: list[bool] = []
    real: Callable[..., torch.Tensor] = fused_lora.Projections.backward

    def backward(self: Any, rows: Any, kept: Any, gradients: Any, of_input: bool = True) -> torch.Tensor:
        asked.append(of_input)
        return real(self, rows, kept, gradients, of_input)

    monkeypatch.setattr(fused_lora.Projections, "backward", backward)
    row = {name: value for name, value in pack([torch.tensor([1, 5, 6, 2])]).items() if name != "looked_on"}
    with base.new_adapter(CONFIG) as model, packing.packed_attention(base.model):
        model.get_base_model()(**row, use_cache=False).logits.sum().backward()
    layers = base.model.config.num_hidden_layers
    assert asked == [*itertools.repeat(True, 4 * layers - 1), False]


def test_nothing_of_a_base_stays_when_another_takes_its_place(task: Task, tmp_path: Path) -> None:
    import gc
    import weakref

    losses(CONFIG, task, tmp_path / "trial")
    embeddings = weakref.ref(load_base(task).model.get_input_embeddings())
    load_base(dataclasses.replace(task, data="elsewhere"))
    gc.unfreeze()
    gc.collect()
    assert embeddings() is None

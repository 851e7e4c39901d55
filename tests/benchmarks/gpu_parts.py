"""What is measured in one process, on a base that stays loaded as on a search's worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
import turnaround as clocks
from gpu_probe import FRESH_STEPS, Bench, relative_differences, seconds_of

from medqa import trainer
from medqa.config import TrialConfig
from medqa.course import build_course
from medqa.evaluations import evaluation_sample
from medqa.memory import free_memory
from medqa.model import BaseModel, load_base
from medqa.prompt import Encoded
from medqa.scoring import score_questions
from medqa.weights import drop_weights

ANSWER = TrialConfig(lora_dropout=0.0, question_loss_weight=0.0)
WHOLE = TrialConfig()
"""The presets as they are: dropout 0.05, loss on the whole text."""
CARDS_GB = (16, 24, 40, 80, 141)
_CONTEXT_BYTES = 0.6 * 2**30
"""What CUDA itself takes of a card."""
_RANKS = (16, 16, 64, 16)
_SHORT_RANKS = (8, 64, 32, 16, 64, 8, 16)


def training(bench: Bench) -> dict[str, Any]:
    """Measure the steady speed of our training in its quickest and in the presets' form.

    Each is trained twice. The first time kernels are loaded as new lengths come, some percent of the time: once in a
    process, which on a worker is a whole search. The second time counts.
    """
    bench.warm_up()
    rows = {}
    for name, config in (("answer", ANSWER), ("whole", WHOLE)):
        first, second = (
            bench.measure(config, warm_up=bench.sizes.warm_up_steps, timed=bench.sizes.timed_steps).row()
            for _ in range(2)
        )
        rows[name] = {**second, "first_tokens_per_second": first["tokens_per_second"]}
        speeds = " then ".join(f"{row['tokens_per_second']:,.0f}" for row in (first, second))
        print(f"  {name}: {speeds} tokens/s", flush=True)
    return rows


def scoring(bench: Bench) -> dict[str, Any]:
    """Measure scoring by letters, on the base alone and with an adapter, and the evaluation of a sample.

    The base has its weights as a trial on this GPU leaves them.
    """
    bench.warm_up()
    base, questions = load_base(bench.task), bench.questions.validation
    rows: dict[str, Any] = {"base": _speed(base, base.model, bench)}
    folder = bench.work / "an_adapter"
    with base.new_adapter(WHOLE) as model:
        model.save_pretrained(folder, save_embedding_layers=False)
    with base.adapter_from(folder) as model:
        inner = model.get_base_model()
        rows["adapter"] = _speed(base, inner, bench)
        sample = evaluation_sample(questions, WHOLE.eval_questions)
        rows["sample_questions"] = len(sample)
        rows["sample_seconds"] = _seconds(base, inner, sample, with_lm_loss=True)
    return rows


def _speed(base: BaseModel, model: Any, bench: Bench) -> dict[str, float]:
    questions = bench.questions.validation
    seconds = _seconds(base, model, questions)
    tokens = sum(len(item) for item in base.encoder.encode_all(questions))
    print(f"  {len(questions) / seconds:.1f} questions/s", flush=True)
    return {
        "questions": len(questions),
        "seconds": seconds,
        "mean_tokens": tokens / len(questions),
        "questions_per_second": len(questions) / seconds,
        "tokens_per_second": tokens / seconds,
    }


def _seconds(base: BaseModel, model: Any, questions: Sequence[Any], with_lm_loss: bool = False) -> float:
    def score() -> None:
        score_questions(model, base.encoder, questions, with_lm_loss=with_lm_loss)

    score()
    return seconds_of(score)


def turnaround(bench: Bench) -> dict[str, Any]:
    """Measure the seconds from a trial's last scoring to the next trial's first step, and to its own next step.

    What is saved during a scoring is in them only as far as it takes longer, so that the sample is a search's.
    """
    bench.warm_up()
    clock = clocks.Clock()
    scored = clock.after_scoring(trainer.score_questions)
    stepped = clock.before_step(trainer.LetterTrainer.training_step)
    with (
        mock.patch.object(trainer, "score_questions", scored),
        mock.patch.object(trainer.LetterTrainer, "training_step", stepped),
    ):
        for number, rank in enumerate(_RANKS):
            clocks.run(bench.sample_task, bench.work / "turnaround", rank, number)
    # two evaluations a trial: what follows the first is a gap within it, what follows the second one between two
    within, between = clock.gaps[1::2], clock.gaps[2::2]
    return {
        "between_trials_seconds": _by_rank(between, _RANKS[1:]),
        "after_an_evaluation_seconds": _by_rank(within, _RANKS),
    }


def _by_rank(gaps: Sequence[float], ranks: Sequence[int]) -> dict[str, list[float]]:
    pairs = list(zip(gaps, ranks, strict=True))
    return {str(rank): [gap for gap, of in pairs if of == rank] for rank in sorted(set(ranks))}


def memory(bench: Bench) -> dict[str, Any]:
    """Train some steps, the heaviest of the whole course among them, in the memory of smaller cards."""
    bench.warm_up()
    base = load_base(bench.task)
    course = build_course(WHOLE, bench.questions.train, base.encoder)
    examples = with_heaviest(course.examples, WHOLE.effective_batch_size)
    total = torch.cuda.get_device_properties(0).total_memory
    rows = {}
    try:
        for card_gb in CARDS_GB:
            drop_weights(base.model)
            free_memory()
            torch.cuda.set_per_process_memory_fraction(min(1.0, (card_gb * 1e9 - _CONTEXT_BYTES) / total))
            rows[str(card_gb)] = _on_card(bench, examples)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {"cards": rows, "heaviest_tokens": max(map(sum, _lengths(examples, WHOLE.effective_batch_size)))}


def _on_card(bench: Bench, examples: Sequence[Encoded]) -> dict[str, Any]:
    timed = len(examples) // WHOLE.effective_batch_size - 2
    try:
        return bench.measure(WHOLE, warm_up=2, timed=timed, examples=examples).row()
    except Exception as error:  # one card that fails is a finding, the others are still asked
        return {"error": f"{type(error).__name__}: {error}".partition("\n")[0]}


def with_heaviest(examples: Sequence[Encoded], batch_size: int, ordinary: int = 4) -> list[Encoded]:
    """Return whole steps of a course: some ordinary ones, and for each way to split a step the heaviest of all.

    The largest micro-batch of what is returned is that of the whole course, however a step is split.
    """
    lengths = _lengths(examples, batch_size)
    sizes = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
    heavy = {max(range(len(lengths)), key=lambda step: _largest(lengths[step], size)) for size in sizes}
    light = [step for step in range(len(lengths)) if step not in heavy][:ordinary]
    steps = [*light[:2], *sorted(heavy), *light[2:]]
    return [example for step in steps for example in examples[step * batch_size : (step + 1) * batch_size]]


def _lengths(examples: Sequence[Encoded], batch_size: int) -> list[list[int]]:
    whole = len(examples) // batch_size * batch_size
    return [[len(item) for item in examples[start : start + batch_size]] for start in range(0, whole, batch_size)]


def _largest(lengths: Sequence[int], size: int) -> int:
    return max(sum(lengths[start : start + size]) for start in range(0, len(lengths), size))


def growth(bench: Bench) -> dict[str, Any]:
    """Run many short trials of all ranks: memory must not grow, and the first one's losses must come again."""
    fresh = bench.fresh_losses
    _short(bench, 16)
    after_one = allocated_gib()
    for number in range(bench.sizes.short_trials):
        _short(bench, _SHORT_RANKS[number % len(_SHORT_RANKS)])
    _short(bench, 16)
    after_all = allocated_gib()
    again, once_more = (bench.measure(WHOLE, warm_up=1, timed=FRESH_STEPS - 1).losses for _ in range(2))
    return {
        "trials": bench.sizes.short_trials,
        "after_one_gib": after_one,
        "after_all_gib": after_all,
        "growth": after_all / after_one - 1 if after_one else 0.0,
        "largest_difference_from_fresh": max(relative_differences(again, fresh)),
        "largest_difference_of_two_in_a_row": max(relative_differences(once_more, again)),
    }


def _short(bench: Bench, rank: int) -> None:
    config = dataclasses.replace(WHOLE, lora_rank=rank, lora_alpha=2 * rank)
    bench.measure(config, warm_up=1, timed=1)


def allocated_gib() -> float:
    """Return what tensors take of the GPU's memory now; 0.0 without a GPU."""
    free_memory()
    return torch.cuda.memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0

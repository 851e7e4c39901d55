"""SCRIPT: make the demo's base model from nothing, on a GPU or the CPU. `python -m medqa.demo.make_base [FOLDER]`."""

import argparse
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from medqa.demo import BASE_FOLDER
from medqa.demo.lessons import LESSON_TEXTS, Lesson, write_lessons
from medqa.demo.vocabulary import MAX_TOKENS, build_tokenizer

PROMPT_WEIGHT: Final = 0.2
"""Weight of the questions' tokens in the loss, where statements and answer letters have 1 each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How the base is made."""

    seed: int = 0
    """Seed of the weights and of every lesson."""
    steps: int = 850
    """Optimizer steps."""
    batch: int = 256
    """Lessons a step."""
    layers: int = 6
    """Transformer layers."""
    width: int = 192
    """Hidden width; heads are 32 wide."""
    muon_learning_rate: float = 0.01
    """Peak rate of Muon, for the matrices inside the layers."""
    adam_learning_rate: float = 3e-3
    """Peak rate of AdamW, for the embeddings and the norms."""
    warmup_steps: int = 50
    """Steps over which both rates rise; they fall linearly to 0 afterwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Lessons as padded tensors, lessons by tokens (B, T)."""

    tokens: Tensor
    """Token ids, padded on the right."""
    statement: Tensor
    """True at tokens of statements."""
    prompt: Tensor
    """True at tokens of a chat other than the answers."""
    answer: Tensor
    """True at the letters that answer and the end token after each."""


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> MistralForCausalLM:
    """Build the model with random weights. Attention is eager here because its backward pass repeats to the bit."""
    config = MistralConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 8 // 3 // 64 * 64,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.width // 32,
        num_key_value_heads=recipe.width // 32,
        head_dim=32,
        max_position_embeddings=MAX_TOKENS,
        sliding_window=None,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
        attn_implementation="eager",
    )
    return MistralForCausalLM(config)


def encode(lessons: Iterable[Lesson], tokenizer: PreTrainedTokenizerFast, device: torch.device) -> Batch:
    """Turn lessons into one padded batch."""
    rows = list(lessons)
    encoded = tokenizer(
        [_text(row, tokenizer) for row in rows],
        add_special_tokens=False,
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    tokens_BT = encoded["input_ids"].to(device)
    real_BT = encoded["attention_mask"].to(device).bool()
    stated_B1 = torch.tensor([[bool(row.statement)] for row in rows], device=device)
    closes_BT = tokens_BT == tokenizer.convert_tokens_to_ids("[/INST]")
    answer_BT = (closes_BT.roll(1, 1) | closes_BT.roll(2, 1)) & real_BT
    return Batch(
        tokens=tokens_BT,
        statement=real_BT & stated_B1,
        prompt=real_BT & ~stated_B1 & ~answer_BT,
        answer=answer_BT,
    )


def _text(lesson: Lesson, tokenizer: PreTrainedTokenizerFast) -> str:
    if lesson.statement:
        return f"<s>{lesson.statement}</s>"
    return str(tokenizer.apply_chat_template(lesson.messages(), tokenize=False))


def loss_of(model: MistralForCausalLM, batch: Batch) -> Tensor:
    """Return the mean loss on statements, plus that on answers, plus a part of that on prompts."""
    logits_BTV = model(input_ids=batch.tokens).logits[:, :-1].float()
    losses_BT = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none"
    ).view_as(batch.tokens[:, 1:])
    parts = ((batch.statement, 1.0), (batch.answer, 1.0), (batch.prompt, PROMPT_WEIGHT))
    means = [weight * _masked_mean(losses_BT, mask_BT[:, 1:]) for mask_BT, weight in parts]
    return torch.stack(means).sum()


def _masked_mean(losses_BT: Tensor, mask_BT: Tensor) -> Tensor:
    return (losses_BT * mask_BT).sum() / mask_BT.sum().clamp(min=1)


def build_optimizers(model: MistralForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Give the layers' matrices to Muon and everything else to AdamW."""
    inner = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    held = {id(weight) for weight in inner}
    outer = [weight for weight in model.parameters() if id(weight) not in held]
    return [
        torch.optim.Muon(inner, lr=recipe.muon_learning_rate, weight_decay=0.0),
        torch.optim.AdamW(outer, lr=recipe.adam_learning_rate, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def rate_at(step: int, recipe: Recipe) -> float:
    """Return the share of the peak learning rate at this step."""
    return min((step + 1) / recipe.warmup_steps, (recipe.steps - step) / recipe.steps)


def train(model: MistralForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
    """Train the model in place."""
    random = Random(recipe.seed)
    optimizers = build_optimizers(model, recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(it, lambda step: rate_at(step, recipe)) for it in optimizers]
    started = time.perf_counter()
    for step in range(recipe.steps):
        batch = encode(write_lessons(step / recipe.steps, recipe.batch, random), tokenizer, model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = loss_of(model, batch)
        loss.backward()
        for mover in (*optimizers, *schedules):
            mover.step()
        model.zero_grad()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)


def make_base(folder: Path, recipe: Recipe) -> None:
    """Make tokenizer and model and save both; the same bits every time on one type of machine."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer(LESSON_TEXTS)
    model = build_model(recipe, tokenizer).to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer.save_pretrained(folder)
    train(model, tokenizer, recipe)
    model.to(torch.bfloat16).save_pretrained(folder)


def parse_arguments() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=BASE_FOLDER, help="where to save the base")
    return parser.parse_args()


if __name__ == "__main__":
    make_base(parse_arguments().folder, Recipe())

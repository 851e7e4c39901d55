"""train(config, task, run_dir, name, on_eval): one QLoRA trial around TRL's SFTTrainer."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from pathlib import Path

import torch
from trl import SFTConfig

from medqa import checkpoint, record
from medqa.config import Task, TrialConfig
from medqa.course import build_course, collate, to_dataset
from medqa.evaluations import Evaluation, OnEval
from medqa.extra import load_questions
from medqa.memory import MemoryPlan, free_memory, plan_memory, reserve
from medqa.model import BaseModel, load_base
from medqa.packing import packed_attention
from medqa.prompt import wording_fingerprint
from medqa.questions import QuestionSet
from medqa.speedups import ALL, Speedups
from medqa.trainer import LetterTrainer, TrialSetup
from medqa.weights import drop_weights, keep_weights


def train(config: TrialConfig, task: Task, run_dir: Path, name: str, on_eval: OnEval, speedups: Speedups = ALL) -> None:
    """Train one adapter, evaluate it every `config.eval_every_steps` steps, and leave its record in `run_dir`.

    `run_dir` holds a complete record at each call of `on_eval`. Where it holds the state of an earlier,
    interrupted call, `on_eval` gets the last evaluation again, which it may not have heard, and training goes on
    exactly there; where that call had finished, nothing is trained.

    Where a GPU's memory runs out, training goes on from there with smaller micro-batches and more of them: a step
    stays the same up to rounding and dropout's draws, because its loss is the mean over all its tokens.

    Args:
        config: The trial's hyperparameters.
        task: Base model and questions.
        run_dir: Folder of this trial alone; made where absent.
        name: The trial's name in its record.
        on_eval: Called after each evaluation; what it raises ends the training and passes through.
        speedups: What to leave out of the ways that lead to the same numbers sooner.

    Raises:
        DivergedError: when the training loss or the validation NLL is not finite, or the loss far above its start.
        GpuMemoryError: when one example at a time does not fit in the GPU's memory.
        DataError, ModelError: when questions or model cannot be had.
        RecordError: when they are not those with which the trial was begun.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    log = checkpoint.restore_log(run_dir)
    if log:
        on_eval(Evaluation(**log[-1]))
        if log[-1]["finished"]:
            return
    base = load_base(task)
    questions = _load_questions(task)
    extra = questions.extra.questions if questions.extra else ()
    course = build_course(config, questions.train, base.encoder, extra)
    identity = _identity(name, config, base, questions)
    if log:
        _require_same_origin(record.read_identity(run_dir), identity)
    record.write_identity(run_dir, identity)
    trial = TrialSetup(
        name=name,
        config=config,
        base=base,
        questions=questions,
        course=course,
        run_dir=run_dir,
        on_eval=on_eval,
        speedups=speedups,
        # one start for all attempts: those that ran out of memory took time as well
        started_at=time.perf_counter() - (log[-1]["seconds"] if log else 0.0),
    )
    # a restarted trial keeps its plan: another one would draw other dropout masks
    plan = record.read_plan(run_dir) if log else _plan(trial)
    while reason := _attempt(trial, plan):
        free_memory()
        plan = plan.smaller(reason)


def _plan(trial: TrialSetup) -> MemoryPlan:
    lengths = [len(example.full_ids) for example in trial.course.examples]
    if not trial.speedups.packed_rows:
        size = trial.config.effective_batch_size  # the most that padding can make of each
        lengths = [max(lengths[start : start + size]) for start in range(0, len(lengths), size) for _ in range(size)]
    return plan_memory(trial.base.model, lengths, trial.config, trial.speedups.keep_weights, trial.fused)


def _attempt(trial: TrialSetup, plan: MemoryPlan) -> str:
    """Train from the committed checkpoint to the end; return "", or what was said when memory ran out.

    The error is not passed on: it refers to the tensors of the step that failed, which must go.
    """
    base, config, course = trial.base, trial.config, trial.course
    log = checkpoint.restore_log(trial.run_dir)
    plan = _with_weights_as_planned(base, plan)
    reserve(plan)
    try:
        with base.new_adapter(config, fused=trial.fused) as model, _rows(trial):
            trainer = LetterTrainer(
                model=model,
                args=_arguments(trial, plan),
                train_dataset=to_dataset(course),
                processing_class=base.tokenizer,
                data_collator=functools.partial(
                    collate,
                    pad_token_id=base.tokenizer.pad_token_id,
                    question_loss_weight=config.question_loss_weight,
                    packed=trial.speedups.packed_rows,
                    share_beginning=trial.shares_beginnings,
                ),
            )
            trainer.begin(trial, plan, log)
            trainer.train(resume_from_checkpoint=checkpoint.newest(trial.run_dir))
    except torch.OutOfMemoryError as error:
        return str(error).partition("\n")[0] or "out of memory"
    return ""


def _with_weights_as_planned(base: BaseModel, plan: MemoryPlan) -> MemoryPlan:
    """Keep the weights or not; the plan is of an emptier GPU where they do not fit, and goes on without them."""
    if plan.keep_weights:
        try:
            keep_weights(base.model)
            return plan
        except torch.OutOfMemoryError:
            plan = dataclasses.replace(plan, keep_weights=False)
    drop_weights(base.model)
    return plan


# A worker runs many trials on the same questions: they are read and checked once.
_load_questions = functools.lru_cache(maxsize=1)(load_questions)


def _identity(name: str, config: TrialConfig, base: BaseModel, questions: QuestionSet) -> record.TrialIdentity:
    return record.TrialIdentity(
        name=name,
        config=config,
        task=base.task,
        data_fingerprint=questions.fingerprint,
        prompt_fingerprint=wording_fingerprint(),
        base_fingerprint=base.fingerprint,
        versions=record.installed_versions(),
        extra_fingerprint=questions.extra.fingerprint if questions.extra else "",
        token_fingerprint=base.encoder.fingerprint(),
    )


def _require_same_origin(begun: record.TrialIdentity, now: record.TrialIdentity) -> None:
    where = f"trial {now.name!r}, which would go on"
    record.require_same("questions", where, begun.data_fingerprint, now.data_fingerprint)
    record.require_same("extra questions", where, begun.extra_fingerprint, now.extra_fingerprint)
    record.require_same("prompt", where, begun.prompt_fingerprint, now.prompt_fingerprint)
    record.require_same("chat template or tokenizer", where, begun.token_fingerprint, now.token_fingerprint)
    record.require_same("base model", where, begun.base_fingerprint, now.base_fingerprint)


def _rows(trial: TrialSetup) -> contextlib.AbstractContextManager[None]:
    return packed_attention(trial.base.model) if trial.speedups.packed_rows else contextlib.nullcontext()


def _arguments(trial: TrialSetup, plan: MemoryPlan) -> SFTConfig:
    config, course, run_dir = trial.config, trial.course, trial.run_dir
    total_steps = course.total_steps(config.effective_batch_size)
    arguments = SFTConfig(
        output_dir=str(run_dir / record.STATE),
        max_steps=total_steps,
        per_device_train_batch_size=plan.micro_batch_size,
        gradient_accumulation_steps=plan.accumulation_steps,
        gradient_checkpointing=plan.gradient_checkpointing,
        learning_rate=config.learning_rate,
        warmup_steps=math.ceil(config.warmup_ratio * total_steps),
        weight_decay=config.weight_decay,
        lr_scheduler_type=config.lr_scheduler_type,
        max_grad_norm=config.max_grad_norm,
        # its states are small and counted in the plan; paged ones make the GPU wait at each step
        optim=config.optim.removeprefix("paged_"),
        seed=config.seed,
        data_seed=config.seed,
        train_sampling_strategy="sequential",  # the course is already in order
        # the fused layers are bf16 by themselves
        bf16=not trial.fused and trial.base.model.dtype == torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        max_length=None,  # the course left out what is too long; nothing is cut
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        eval_strategy="no",  # the trainer's Schedule asks for logs, evaluations and checkpoints
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen
        accelerator_config={"non_blocking": True},  # the host goes on while a batch is copied to the GPU
        disable_tqdm=True,
        report_to="none",
    )
    # of several GPUs that a process sees, the one where the base lies: transformers would spread each batch over all
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments

"""train(config, task, run_dir, name, on_eval): one QLoRA trial around TRL's SFTTrainer."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from medqa import checkpoint, record
from medqa.config import Task, TrialConfig
from medqa.course import Course, build_course, collate, to_dataset
from medqa.curve import draw_training_curve
from medqa.errors import DivergedError
from medqa.memory import MemoryPlan, plan_memory
from medqa.metrics import study_results
from medqa.model import BaseModel, load_base
from medqa.prompt import wording_fingerprint
from medqa.questions import QuestionSet, load_search_questions
from medqa.scoring import Scores, score_questions

OnEval = Callable[["Evaluation"], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One evaluation on the validation questions; a row of training_log.json."""

    step: int
    """Optimizer steps done."""
    total_steps: int
    """Optimizer steps of the whole course."""
    examples: int
    """Training examples seen."""
    epoch: float
    accuracy: float
    """Share of validation questions whose most probable letter is right."""
    answer_nll: float
    """Mean negative log-probability of the right letter, nats."""
    lm_loss: float
    """Mean negative log-likelihood per token of question and answer, nats."""
    train_loss: float
    """Mean training loss since the evaluation before, nats."""
    learning_rate: float
    best_accuracy: float
    """Accuracy at the kept checkpoint."""
    best_answer_nll: float
    """Answer NLL at the kept checkpoint, nats."""
    best_step: int
    """Step of the kept checkpoint."""
    seconds: float
    """Wall seconds of training and evaluation, the time before a restart included."""
    peak_gib: float
    """Peak GPU memory in GiB; 0.0 on the CPU."""
    finished: bool
    """Whether this is the trial's last evaluation."""
    stop_reason: str
    """"" while running, then "completed" or "early_stopped"."""


def train(config: TrialConfig, task: Task, run_dir: Path, name: str, on_eval: OnEval) -> None:
    """Train one adapter, evaluate it every `config.eval_every_steps` steps, and leave its record in `run_dir`.

    `run_dir` holds a complete record at each call of `on_eval`. Where it holds the state of an earlier,
    interrupted call, training goes on exactly there; where that call had finished, `on_eval` gets its last
    evaluation again and nothing is trained.

    Args:
        config: The trial's hyperparameters.
        task: Base model and questions.
        run_dir: Folder of this trial alone; made where absent.
        name: The trial's name in its record.
        on_eval: Called after each evaluation; what it raises ends the training and passes through.

    Raises:
        DivergedError: when the training loss or the validation NLL is not finite.
        DataError, ModelError: when questions or model cannot be had.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    log = checkpoint.restore_log(run_dir)
    if log and log[-1]["finished"]:
        on_eval(Evaluation(**log[-1]))
        return
    base = load_base(task)
    questions = _load_questions(task)
    course = build_course(config, questions.train, base.encoder)
    record.write_identity(run_dir, _identity(name, config, base, questions))
    with base.new_adapter(config) as model:
        plan = plan_memory(base.model, course.longest, config.effective_batch_size)
        trainer = _LetterTrainer(
            model=model,
            args=_arguments(config, course, plan, run_dir),
            train_dataset=to_dataset(course),
            processing_class=base.tokenizer,
            data_collator=functools.partial(
                collate, pad_token_id=base.tokenizer.pad_token_id, question_loss_weight=config.question_loss_weight
            ),
        )
        trainer.begin(config, base, questions, course, run_dir, name, log, on_eval)
        trainer.train(resume_from_checkpoint=checkpoint.newest(run_dir))


# A worker runs many trials on the same questions: they are read and checked once.
_load_questions = functools.lru_cache(maxsize=1)(lambda task: load_search_questions(task.data, task.data_revision))


def _identity(name: str, config: TrialConfig, base: BaseModel, questions: QuestionSet) -> record.TrialIdentity:
    return record.TrialIdentity(
        name=name,
        config=config,
        task=base.task,
        data_fingerprint=questions.fingerprint,
        prompt_fingerprint=wording_fingerprint(),
        base_fingerprint=base.fingerprint,
        versions=record.installed_versions(),
    )


def _arguments(config: TrialConfig, course: Course, plan: MemoryPlan, run_dir: Path) -> SFTConfig:
    total_steps = course.total_steps(config.effective_batch_size)
    return SFTConfig(
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
        optim=config.optim,
        seed=config.seed,
        data_seed=config.seed,
        train_sampling_strategy="sequential",  # the course is already in order
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        max_length=None,  # the course left out what is too long; nothing is cut
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        eval_strategy="no",  # _Schedule asks for logs, evaluations and checkpoints
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen
        disable_tqdm=True,
        report_to="none",
    )


class _LetterTrainer(SFTTrainer):
    """SFTTrainer with a weighted loss, evaluation by answer letters, and one kept best adapter."""

    def begin(
        self,
        config: TrialConfig,
        base: BaseModel,
        questions: QuestionSet,
        course: Course,
        run_dir: Path,
        name: str,
        log: list[dict[str, Any]],
        on_eval: OnEval,
    ) -> None:
        """Take what this trial adds to an SFTTrainer; called once before train()."""
        self.config, self.base, self.questions, self.course = config, base, questions, course
        self.run_dir, self.name, self.on_eval = run_dir, name, on_eval
        self.log_rows = log
        self.started_at = time.perf_counter() - (log[-1]["seconds"] if log else 0.0)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the weights of the whole step
        self.remove_callback(PrinterCallback)
        self.add_callback(_Schedule(config.eval_every_steps))
        # TRL turns the adapters of a quantised model into bf16, where AdamW's small updates are rounded away
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Return the weighted mean of token losses over the whole optimizer step (this micro-batch's part)."""
        weights_BT = inputs.pop("loss_weights")
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        return -(outputs.log_probs * weights_BT[:, 1:]).sum() / num_items_in_batch

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """Return the sum of all token weights of one optimizer step."""
        return sum((batch["loss_weights"][:, 1:].sum() for batch in batch_samples), torch.zeros(())).to(device)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card into a checkpoint: it is for restarting only."""

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the validation questions, keep the adapter if it is the best, and write the record."""
        scores = score_questions(
            self.model.get_base_model(), self.base.encoder, self.questions.validation, with_lm_loss=True
        )
        logged = self.state.log_history[-1]
        row = self._row(scores, logged)
        if not math.isfinite(row["train_loss"]) or not math.isfinite(row["answer_nll"]):
            raise DivergedError(f"diverged at step {row['step']}: the loss is {row['train_loss']}")
        if row["best_step"] == row["step"]:
            record.replace_folder(self.run_dir / record.ADAPTER, self._save_adapter)
            results = study_results(scores.predictions, self.questions.validation)
            record.write_json(self.run_dir / record.VAL_RESULTS, results)
        self.log_rows.append(row)
        self.control.should_training_stop |= row["finished"]
        return {"eval_accuracy": scores.accuracy}

    def _row(self, scores: Scores, logged: dict[str, Any]) -> dict[str, Any]:
        step = self.state.global_step
        examples = min(step * self.config.effective_batch_size, len(self.course.examples))
        row = {
            "step": step,
            "total_steps": self.state.max_steps,
            "examples": examples,
            "epoch": examples / self.course.examples_per_epoch,
            "accuracy": scores.accuracy,
            "answer_nll": scores.answer_nll,
            "lm_loss": scores.lm_loss,
            "train_loss": logged["loss"],
            "learning_rate": logged["learning_rate"],
            "seconds": time.perf_counter() - self.started_at,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0,
        }
        return row | decide(self.config, [*self.log_rows, row])

    def _save_adapter(self, folder: Path) -> None:
        """Save the adapter so that its files name the model as the task does, not a folder of this machine."""
        lora = self.model.peft_config["default"]
        local, lora.base_model_name_or_path = lora.base_model_name_or_path, self.base.task.model
        # the Hub is not asked whether the vocabulary grew: it never does here
        self.model.save_pretrained(folder, save_embedding_layers=False)
        lora.base_model_name_or_path = local

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save what a restart needs, then tell the caller; a finished trial needs nothing."""
        row = self.log_rows[-1]
        if not row["finished"]:
            super()._save_checkpoint(model, trial)
        record.write_summary(self.run_dir, self.name, self.log_rows, len(self.course.left_out))
        checkpoint.commit(self.run_dir, self.log_rows)
        if row["finished"]:
            draw_training_curve(self.run_dir)
        self.on_eval(Evaluation(**row))


class _Schedule(TrainerCallback):
    """Asks for log, evaluation and checkpoint, in this order, every N steps and at the last step."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        due = state.global_step % self.every_steps == 0 or state.global_step >= state.max_steps
        control.should_log = control.should_evaluate = control.should_save = due
        return control


def decide(config: TrialConfig, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Say what the newest row means: which evaluation is the best so far, and whether training ends.

    The best is the highest accuracy, equal accuracies parted by the lower answer NLL; or the lowest answer
    NLL, as `config.selection_metric` says. The earlier of equals stays.
    """
    best = min(rows, key=lambda row: selection_key(config, row["accuracy"], row["answer_nll"]))
    since_best = sum(row["step"] > best["step"] for row in rows)
    completed = rows[-1]["step"] >= rows[-1]["total_steps"]
    early = not completed and since_best >= config.patience
    return {
        "best_accuracy": best["accuracy"],
        "best_answer_nll": best["answer_nll"],
        "best_step": best["step"],
        "finished": completed or early,
        "stop_reason": "completed" if completed else "early_stopped" if early else "",
    }


def selection_key(config: TrialConfig, accuracy: float, answer_nll: float) -> tuple[float, float]:
    """Return a key by which the better evaluation sorts first."""
    return (-accuracy, answer_nll) if config.selection_metric == "accuracy" else (answer_nll, -accuracy)


def evaluations(run_dir: Path) -> list[Evaluation]:
    """Return the evaluations of a trial's training_log.json."""
    return [Evaluation(**row) for row in record.read_json(run_dir / record.TRAINING_LOG)]


EVALUATION_FIELDS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(Evaluation))

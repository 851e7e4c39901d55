"""One attempt at a trial: TRL's SFTTrainer with a weighted loss, evaluated by answer letters."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import load_peft_weights, set_peft_model_state_dict
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer
from trl.kernels import ChunkedLogProbFunction

from medqa import checkpoint, record
from medqa.config import TrialConfig
from medqa.course import Course
from medqa.curve import draw_training_curve
from medqa.divergence import LossWatch
from medqa.evaluations import Evaluation, OnEval, decide, evaluation_sample
from medqa.fused_layers import can_fuse
from medqa.memory import HEAD_VOCABULARY, MemoryPlan
from medqa.metrics import study_results
from medqa.model import BaseModel
from medqa.prediction import Scores
from medqa.questions import Question, QuestionSet
from medqa.saving import meanwhile
from medqa.scoring import score_questions
from medqa.speedups import Speedups


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSetup:
    """A trial with all that its training needs."""

    name: str
    config: TrialConfig
    base: BaseModel
    questions: QuestionSet
    course: Course
    run_dir: Path
    """Folder of this trial alone."""
    on_eval: OnEval
    """Called after each evaluation."""
    speedups: Speedups
    """Ways to the same numbers sooner."""
    started_at: float
    """When training would have started on `time.perf_counter` if no restart had come between."""

    @property
    def fused(self) -> bool:
        """Whether the trial goes through `medqa.fused_layers`, which take packed rows only."""
        return self.speedups.packed_rows and self.speedups.fused_layers and can_fuse(self.base.model)

    @property
    def shares_beginnings(self) -> bool:
        """Whether what all prompts of a micro-batch begin with is computed once."""
        return self.fused and self.speedups.shared_beginnings and self.config.lora_dropout == 0


class LetterTrainer(SFTTrainer):
    """SFTTrainer with a weighted loss, evaluation by answer letters, and one kept best adapter."""

    def begin(self, trial: TrialSetup, plan: MemoryPlan, log: list[dict[str, Any]]) -> None:
        """Take what this trial adds to an SFTTrainer; called once before train().

        Args:
            trial: The trial.
            plan: How each step is split, for the record.
            log: Evaluations up to the checkpoint from which training goes on.
        """
        self.trial, self.plan, self.log_rows = trial, plan, log
        self.watch = LossWatch(log[0]["train_loss"] if log else None)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the weights of the whole step
        self.remove_callback(PrinterCallback)
        self.add_callback(Schedule(trial.config.eval_every_steps, self.watch))
        # TRL turns the parameters of an adapter on a quantised model into bf16, where small updates are rounded away
        if trial.fused:
            trial.base.fuse(self.model)
        else:
            for parameter in self.model.parameters():
                parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
        self._go_through_modules_once()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def _go_through_modules_once(self) -> None:
        """Keep transformers from visiting the model's 1,500 modules at every step, for longer than a layer takes."""
        model = self.model.train()
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

        def train(mode: bool = True) -> Any:
            return model if model.training == mode else type(model).train(model, mode)

        def zero_grad(set_to_none: bool = True) -> None:
            for parameter in self.trained:
                parameter.grad = None

        model.train, model.zero_grad = train, zero_grad

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Let the host go on while bitsandbytes' optimizer steps: the GPU does in order what it is asked for."""
        import bitsandbytes

        bitsandbytes.optim.optimizer.sync_gpu = lambda tensor: None
        return super().create_optimizer(*args, **kwargs)

    def _clip_grad_norm(self, model: Any) -> torch.Tensor:
        norm: torch.Tensor = self.accelerator.clip_grad_norm_(self.trained, self.args.max_grad_norm)
        return norm

    def floating_point_ops(self, inputs: Any) -> int:
        """Count none, which nobody reads."""
        return 0

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Return the weighted mean of token losses over the whole optimizer step (this micro-batch's part)."""
        weights_BT = inputs.pop("loss_weights")
        positions_P = inputs.pop("predicting_positions", None)
        if self.trial.fused:
            del inputs["labels"]
            log_probabilities_P = log_probabilities(model.get_base_model(), inputs, positions_P)
            return -(log_probabilities_P * weights_BT[0, positions_P + 1]).sum() / num_items_in_batch
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        return -(outputs.log_probs * weights_BT[:, 1:]).sum() / num_items_in_batch

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """Return the sum of all token weights of one optimizer step."""
        return sum((batch["loss_weights"][:, 1:].sum() for batch in batch_samples), torch.zeros(())).to(device)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Show the loss of each micro-batch to the watch."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.watch.add(loss)
        return loss

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card into a checkpoint: it is for restarting only."""

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the sample, keep the adapter if it is the best, and at the end score the kept one on all questions."""
        validation = self.trial.questions.validation
        sample = evaluation_sample(validation, self.trial.config.eval_questions)
        with meanwhile(self._save_ahead):
            scores = self._score(sample, with_lm_loss=True)
        row = self._row(scores, self.state.log_history[-1])
        self.watch.evaluated(row["step"], row["train_loss"], row["answer_nll"])
        if row["best_step"] == row["step"]:
            record.replace_folder(self.trial.run_dir / record.ADAPTER, (self._ahead / record.ADAPTER).rename)
            self._keep_answers(scores, sample)
        if row["finished"] and len(sample) < len(validation):
            row |= self._score_kept(sample, is_loaded=row["best_step"] == row["step"])
        self.log_rows.append(row)
        self.control.should_training_stop |= row["finished"]
        self.control.should_evaluate = False  # it is done: the trainer looks again at the end of its epoch
        return {"eval_accuracy": scores.accuracy}

    @property
    def _ahead(self) -> Path:
        """Folder of what is saved before it is known whether and where it is needed; goes with the state."""
        return self.trial.run_dir / record.STATE / "ahead"

    def _save_ahead(self) -> None:
        """Save the adapter and, if a step is left, the state of what trains it; neither changes in an evaluation."""
        shutil.rmtree(self._ahead, ignore_errors=True)
        self._save_adapter(self._ahead / record.ADAPTER)
        if self.state.global_step < self.state.max_steps:
            (self._ahead / record.STATE).mkdir()
            super()._save_optimizer_and_scheduler(str(self._ahead / record.STATE))
        for path in self._ahead.rglob("*"):
            if path.is_file():
                record.flush_file(path)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Take what `_save_ahead` has saved."""
        for file in (self._ahead / record.STATE).iterdir():
            file.rename(Path(output_dir) / file.name)

    def _score(self, questions: Sequence[Question], with_lm_loss: bool = False) -> Scores:
        encoder = self.trial.base.encoder
        return score_questions(self.model.get_base_model(), encoder, questions, with_lm_loss=with_lm_loss)

    def _keep_answers(self, scores: Scores, questions: Sequence[Question]) -> None:
        record.write_json(self.trial.run_dir / record.VAL_RESULTS, study_results(scores.predictions, questions))

    def _score_kept(self, sample: Sequence[Question], is_loaded: bool) -> dict[str, Any]:
        """Score the kept adapter on the questions outside the sample too; the model keeps it: the training is over."""
        if not is_loaded:
            set_peft_model_state_dict(self.model, load_peft_weights(str(self.trial.run_dir / record.ADAPTER)))
        said = record.read_json(self.trial.run_dir / record.VAL_RESULTS)["predictions"]
        by_id = {one.id: one for one in record.predictions_from_rows(said)}
        validation, sampled = self.trial.questions.validation, {question.id for question in sample}
        rest = self._score([question for question in validation if question.id not in sampled])
        by_id.update((one.id, one) for one in rest.predictions)
        scores = Scores(tuple(by_id[question.id] for question in validation), None)
        self._keep_answers(scores, validation)
        return {
            "best_accuracy": scores.accuracy,
            "best_answer_nll": scores.answer_nll,
            "best_questions": len(validation),
            "seconds": time.perf_counter() - self.trial.started_at,
        }

    def _row(self, scores: Scores, logged: dict[str, Any]) -> dict[str, Any]:
        step = self.state.global_step
        examples = min(step * self.trial.config.effective_batch_size, len(self.trial.course.examples))
        row = {
            "step": step,
            "total_steps": self.state.max_steps,
            "examples": examples,
            "epoch": examples / self.trial.course.examples_per_epoch,
            "questions": len(scores.predictions),
            "accuracy": scores.accuracy,
            "answer_nll": scores.answer_nll,
            "lm_loss": scores.lm_loss,
            "train_loss": logged["loss"],
            "learning_rate": logged["learning_rate"],
            "seconds": time.perf_counter() - self.trial.started_at,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0,
        }
        return row | decide(self.trial.config, [*self.log_rows, row])

    def _save_adapter(self, folder: Path) -> None:
        """Save the adapter so that its files name the model as the task does, not a folder of this machine."""
        lora = self.model.peft_config["default"]
        local, lora.base_model_name_or_path = lora.base_model_name_or_path, self.trial.base.task.model
        # the Hub is not asked whether the vocabulary grew: it never does here
        self.model.save_pretrained(folder, save_embedding_layers=False)
        lora.base_model_name_or_path = local

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the adapter into a checkpoint; where it is the best, that has just been saved, and is linked."""
        row, folder = self.log_rows[-1], Path(output_dir or self.args.output_dir)
        if row["best_step"] == row["step"]:
            record.link_folder(self.trial.run_dir / record.ADAPTER, folder)
        else:
            (self._ahead / record.ADAPTER).rename(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save what a restart needs, then tell the caller; a finished trial needs nothing."""
        row = self.log_rows[-1]
        if not row["finished"]:
            checkpoint.make_room(self.trial.run_dir, row["step"])
            super()._save_checkpoint(model, trial)
            shutil.rmtree(self._ahead)
        left_out = len(self.trial.course.left_out)
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        dtype = str(self.trial.base.model.dtype).removeprefix("torch.")
        record.write_summary(self.trial.run_dir, self.trial.name, self.log_rows, left_out, self.plan, gpu, dtype)
        checkpoint.commit(self.trial.run_dir, self.log_rows)
        if row["finished"]:
            draw_training_curve(self.trial.run_dir)
        self.trial.on_eval(Evaluation(**row))


def log_probabilities(model: Any, row: dict[str, Any], positions_P: torch.Tensor) -> torch.Tensor:
    """Return what a packed row's fused model says of the tokens after the given places (P), fp32.

    TRL's head does the same for the labels that it finds on the GPU, for whose number the host waits.
    """
    targets_P = row["input_ids"][0, positions_P + 1]
    if 2 * len(positions_P) < row["input_ids"].shape[1]:  # of many places a copy costs more than it saves
        hidden_PU = model.model(**row, read_at=positions_P, use_cache=False).last_hidden_state[0]
    else:
        hidden_PU = model.model(**row, use_cache=False).last_hidden_state[0].index_select(0, positions_P)
    head = model.get_output_embeddings()
    result: torch.Tensor = ChunkedLogProbFunction.apply(
        hidden_PU, head.weight, head.bias, targets_P, 1.0, HEAD_VOCABULARY, None, 1.0, ()
    )[0]
    return result


class Schedule(TrainerCallback):
    """Asks for log, evaluation and checkpoint, in this order, every N steps and at the last step."""

    def __init__(self, every_steps: int, watch: LossWatch) -> None:
        self.every_steps, self.watch = every_steps, watch

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Look at the loss, then ask for what is due."""
        self.watch.step_ended(state.global_step)
        due = state.global_step % self.every_steps == 0 or state.global_step >= state.max_steps
        control.should_log = control.should_evaluate = control.should_save = due
        return control

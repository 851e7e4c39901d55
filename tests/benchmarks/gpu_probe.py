"""One training by medqa.training.train, looked at from outside: its plan, its speed, its losses and its memory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from medqa import record, trainer, training
from medqa.config import Task, TrialConfig
from medqa.course import Course
from medqa.memory import MemoryPlan
from medqa.prompt import Encoded
from medqa.questions import Question, load_search_questions
from medqa.speedups import ALL, Speedups

FRESH_STEPS = 5
"""Steps of the first trial of a process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much is measured; a test on the CPU does with less."""

    warm_up_steps: int = 10
    timed_steps: int = 40
    loss_steps: int = 30
    study_steps: int = 6
    short_trials: int = 20
    few_questions: int = 16
    """Validation questions of the trials in which scoring is not what is measured."""
    sample_questions: int = 300
    """Validation questions of a trial whose evaluations take as long as a search's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """What was seen of one training."""

    steps: int
    """Optimizer steps timed, without those of the warm-up."""
    seconds: float
    """Of those steps, from one synchronisation to another."""
    sequences: int
    tokens: int
    """Of those sequences, without padding."""
    losses: tuple[float, ...]
    """Training loss of every step, the warm-up's too."""
    plan: MemoryPlan
    """At the end of the training."""
    peak_gib: float
    """Most memory allocated in the training steps."""
    reserved_gib: float
    """Most memory that the allocator held until the end, the evaluation included."""

    def row(self) -> dict[str, Any]:
        """Return what goes into the results."""
        return {
            "tokens_per_second": self.tokens / self.seconds,
            "sequences_per_second": self.sequences / self.seconds,
            "mean_tokens": self.tokens / self.sequences,
            "step_seconds": self.seconds / self.steps,
            "steps": self.steps,
            "peak_gib": self.peak_gib,
            "reserved_gib": self.reserved_gib,
            "plan": dataclasses.asdict(self.plan),
        }


class Bench:
    """The model and the questions that are measured with, and a folder to work in."""

    def __init__(self, model: str, data: str, work: Path, sizes: Sizes | None = None) -> None:
        self.sizes = sizes or Sizes()
        self.data, self.work = data, work
        self.questions = load_search_questions(data)
        self.task = self._task(model, self.sizes.few_questions)
        self.sample_task = self._task(model, self.sizes.sample_questions)

    def _task(self, model: str, validation_questions: int) -> Task:
        folder = self.work / f"{validation_questions}_validation_questions"
        _write(folder / "train.jsonl", self.questions.train)
        _write(folder / "validation.jsonl", self.questions.validation[:validation_questions])
        return Task(model=model, data=str(folder))

    def warm_up(self) -> None:
        """Run the process's first trial if there was none: it loads the base and compiles kernels."""
        print(f"  first trial's losses: {', '.join(f'{loss:.4f}' for loss in self.fresh_losses)}", flush=True)

    @functools.cached_property
    def fresh_losses(self) -> tuple[float, ...]:
        """The losses of this process's first trial; whoever asks for them first runs it."""
        return self.measure(TrialConfig(), warm_up=1, timed=FRESH_STEPS - 1).losses

    def measure(
        self,
        config: TrialConfig,
        *,
        warm_up: int,
        timed: int,
        speedups: Speedups = ALL,
        micro_batch_size: int | None = None,
        examples: Sequence[Encoded] = (),
    ) -> Timed:
        """Train `warm_up + timed` steps, evaluate once, and return what was seen.

        Args:
            config: The trial's hyperparameters; its length is replaced.
            warm_up: Steps before the clock starts, 1 at least.
            timed: Steps on the clock.
            speedups: What the training uses.
            micro_batch_size: In place of the plan's own.
            examples: What is trained on, in this order, in place of the questions' own course.
        """
        steps = warm_up + timed
        epochs = steps * config.effective_batch_size / len(self.questions.train)
        config = dataclasses.replace(config, num_train_epochs=epochs, eval_every_steps=steps)
        probe = Probe(warm_up, steps, micro_batch_size, examples)
        with tempfile.TemporaryDirectory(dir=self.work) as folder, probe.watching():
            training.train(config, self.task, Path(folder) / "trial", "trial", lambda evaluation: None, speedups)
            plan = record.read_plan(Path(folder) / "trial")
        return probe.result(plan, config.effective_batch_size)


class Probe:
    """Watches one training; it makes the GPU answer twice only, because one that is waited for is slower."""

    def __init__(self, warm_up: int, last: int, micro_batch_size: int | None, examples: Sequence[Encoded]) -> None:
        self.warm_up, self.last = warm_up, last
        self.micro_batch_size, self.examples = micro_batch_size, tuple(examples)
        self.lengths: list[int] = []
        self.parts: list[torch.Tensor] = []
        self.losses: list[torch.Tensor] = []
        self.marks: list[float] = []
        self.peak_gib = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Put the probe where it sees the plan, each micro-batch's loss and the end of each step."""
        with contextlib.ExitStack() as stack:
            put = mock.patch.object
            stack.enter_context(put(trainer, "Schedule", _schedule(self)))
            stack.enter_context(put(training, "plan_memory", self._plan(training.plan_memory)))
            step = self._step(trainer.LetterTrainer.training_step)
            stack.enter_context(put(trainer.LetterTrainer, "training_step", step))
            if self.examples:
                course = Course(self.examples, (), len(self.examples))
                stack.enter_context(put(training, "build_course", lambda *_args, **_kwargs: course))
            yield

    def result(self, plan: MemoryPlan, batch_size: int) -> Timed:
        """Return what was seen of a training that came to its end."""
        timed = self.lengths[self.warm_up * batch_size : self.last * batch_size]
        return Timed(
            steps=self.last - self.warm_up,
            seconds=self.marks[1] - self.marks[0],
            sequences=len(timed),
            tokens=sum(timed),
            losses=tuple(float(loss) for loss in self.losses),
            plan=plan,
            peak_gib=self.peak_gib,
            reserved_gib=torch.cuda.max_memory_reserved() / 2**30 if torch.cuda.is_available() else 0.0,
        )

    def step_begins(self) -> None:
        """Forget what a step that ran out of memory has left."""
        self.parts.clear()

    def step_ended(self, step: int) -> None:
        """Take the step's loss, without waiting for it; at the two ends of the time measured, look at the clock."""
        if step == 1:
            self.losses.clear()
            self.marks.clear()
        self.losses.append(torch.stack(self.parts).sum())
        if step in (self.warm_up, self.last):
            synchronize()
            self.marks.append(time.perf_counter())
            self.peak_gib = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0

    def _plan(self, real: Callable[..., MemoryPlan]) -> Callable[..., MemoryPlan]:
        def plan(model: Any, lengths: Sequence[int], config: TrialConfig, *args: Any, **kwargs: Any) -> MemoryPlan:
            # those of the plain path are lengths with padding
            self.lengths = list(lengths)
            chosen = real(model, lengths, config, *args, **kwargs)
            if self.micro_batch_size:
                parts = config.effective_batch_size // self.micro_batch_size
                chosen = dataclasses.replace(
                    chosen, micro_batch_size=self.micro_batch_size, accumulation_steps=parts, estimated_gib=0.0
                )
            print(f"  {chosen}", flush=True)
            return chosen

        return plan

    def _step(self, real: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def step(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss = real(*args, **kwargs)
            self.parts.append(loss.detach())
            return loss

        return step


def _schedule(probe: Probe) -> type:
    class Watched(trainer.Schedule):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            probe.step_begins()
            return super().on_step_begin(args, state, control, **kwargs)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            probe.step_ended(state.global_step)
            return super().on_step_end(args, state, control, **kwargs)

    return Watched


def synchronize() -> None:
    """Wait for the GPU where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the wall seconds of `work`, from an idle GPU to an idle GPU."""
    synchronize()
    began = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - began


def relative_differences(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return how far values are from others, in parts of these."""
    return [abs(value - other) / abs(other) for value, other in zip(values, others, strict=True)]


def _write(file: Path, questions: Sequence[Question]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(dataclasses.asdict(question)) + "\n" for question in questions))

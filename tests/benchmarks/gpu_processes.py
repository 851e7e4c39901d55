"""What is measured in processes of their own: the study's recipe, the plain path's losses, whole searches.

python tests/benchmarks/gpu_processes.py study MODEL DATA FILE STEPS     # and `plain` with the same arguments
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_probe import Bench, Timed, relative_differences, synchronize

from medqa import record
from medqa.config import TrialConfig
from medqa.speedups import PLAIN

ROOT = Path(__file__).resolve().parent.parent.parent
LOSSES = TrialConfig(lora_dropout=0.0)
"""Without dropout, whose draws differ from path to path; on the whole text, where every token counts."""
_SPLIT = 2
"""Micro-batch of the second run of our own path, which shows what rounding alone does."""
_LONGEST_SECONDS = 150
_STUDY_MICRO_BATCH = 4
_STUDY_WARM_UP_STEPS = 2
_TRIALS_PER_GPU = 6
_STEPS_PER_TRIAL = 40
_SAME_COST = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "effective_batch_size", "question_loss_weight")
"""What decides the time of a step: held, so that two searches run trials of equal cost, whatever they propose."""


def study(bench: Bench) -> dict[str, Any]:
    """Measure the study's recipe: TRL as it comes, 4 x 4 padded, checkpointing, the helper for k-bit training."""
    return _in_own_process("study", bench, bench.sizes.study_steps)


def losses(bench: Bench) -> dict[str, Any]:
    """Compare each step's loss of the plain path with ours from the same start, beside the noise of rounding."""
    bench.warm_up()
    steps = bench.sizes.loss_steps
    plain = _in_own_process("plain", bench, steps)
    whole, split = (_loss_run(bench, steps, size) for size in (None, _SPLIT))
    ours, noise = relative_differences(whole.losses, plain["losses"]), relative_differences(split.losses, whole.losses)
    return {
        "steps": steps,
        "plain": {"largest": max(ours), "mean": sum(ours) / steps},
        "split": {"largest": max(noise), "mean": sum(noise) / steps, "micro_batch_size": split.plan.micro_batch_size},
        "plain_tokens_per_second": plain["tokens_per_second"],
        "plain_losses": plain["losses"],
        "our_losses": whole.losses,
        "split_losses": split.losses,
    }


def _loss_run(bench: Bench, steps: int, micro_batch_size: int | None) -> Timed:
    return bench.measure(LOSSES, warm_up=1, timed=steps - 1, micro_batch_size=micro_batch_size)


def plain_run(bench: Bench, steps: int) -> dict[str, Any]:
    """Train on the plain path; it is alone in its process, because kernels once put into a model stay there."""
    seen = bench.measure(LOSSES, warm_up=1, timed=steps - 1, speedups=PLAIN)
    # the plan of the plain path knows lengths with padding only
    return {**seen.row(), "losses": seen.losses}


def study_run(bench: Bench, steps: int) -> dict[str, Any]:
    """Train as the study did, on the same texts, and return the speed after a warm-up of two steps."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from medqa.model import ALL_PROJECTIONS, load_base

    base = load_base(bench.task)
    preset, marks = TrialConfig(), []
    lora = LoraConfig(
        r=preset.lora_rank,
        lora_alpha=preset.lora_alpha,
        lora_dropout=preset.lora_dropout,
        target_modules=list(ALL_PROJECTIONS),
        task_type="CAUSAL_LM",
    )

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in (_STUDY_WARM_UP_STEPS, steps):
                synchronize()
                marks.append(time.perf_counter())

    dataset, lengths = _texts(bench, base.encoder, steps * preset.effective_batch_size, preset.max_length)
    has_gpu = torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(bench.work / "study"),
        max_steps=steps,
        per_device_train_batch_size=_STUDY_MICRO_BATCH,
        gradient_accumulation_steps=preset.effective_batch_size // _STUDY_MICRO_BATCH,
        gradient_checkpointing=True,
        learning_rate=preset.learning_rate,
        weight_decay=preset.weight_decay,
        max_grad_norm=preset.max_grad_norm,
        lr_scheduler_type=preset.lr_scheduler_type,
        optim="paged_adamw_8bit" if has_gpu else "adamw_8bit",  # paged memory is CUDA's
        max_length=preset.max_length,
        train_sampling_strategy="sequential",  # the texts are in a random order already
        bf16=True,
        use_cpu=not has_gpu,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    model = get_peft_model(prepare_model_for_kbit_training(base.model), lora)
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=dataset, processing_class=base.tokenizer, callbacks=[Clock()]
    )
    trainer.train()
    timed, seconds = lengths[_STUDY_WARM_UP_STEPS * preset.effective_batch_size :], marks[1] - marks[0]
    return {
        "tokens_per_second": sum(timed) / seconds,
        "sequences_per_second": len(timed) / seconds,
        "mean_tokens": sum(timed) / len(timed),
        "steps": steps - _STUDY_WARM_UP_STEPS,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if has_gpu else 0.0,
    }


def _texts(bench: Bench, encoder: Any, count: int, max_length: int) -> tuple[Any, list[int]]:
    """Return as many tokenised texts as asked for, in the order of a trial's course, and their lengths."""
    import datasets

    from medqa.course import build_course

    epochs = count / len(bench.questions.train)
    config = dataclasses.replace(TrialConfig(), num_train_epochs=epochs, max_length=max_length)
    ids = [example.full_ids for example in build_course(config, bench.questions.train, encoder).examples]
    return datasets.Dataset.from_dict({"input_ids": ids}), [len(row) for row in ids]


def searches(bench: Bench, gpus: int, gpus_per_trial: float = 1.0) -> dict[str, Any]:
    """Run a search with a single trial at a time and one with `gpus`; both have six short trials a GPU.

    Each trial trains 40 steps of 16 with the presets' dropout and loss, and is evaluated as a search's trials are.
    """
    one, many = (_search(bench, name, count, gpus_per_trial) for name, count in (("one", 1), ("many", gpus)))
    speeds = [trials_per_hour(seen["ends_seconds"], count) for seen, count in ((one, 1), (many, gpus))]
    return {
        "gpus": gpus,
        "one_trials_per_hour": speeds[0],
        "many_trials_per_hour": speeds[1],
        "times": speeds[1] / speeds[0],
        "one": one,
        "many": many,
    }


def trials_per_hour(ends_seconds: Sequence[float], concurrent: int) -> float:
    """Return trials an hour from the end of the first ones, one a GPU, to the end of the last."""
    return 3600 * (len(ends_seconds) - concurrent) / (ends_seconds[-1] - ends_seconds[concurrent - 1])


def _search(bench: Bench, name: str, concurrent: int, gpus_per_trial: float) -> dict[str, Any]:
    """Run a search, and return the seconds from its start to each trial's end, and those of each trial itself."""
    same = dataclasses.asdict(TrialConfig())
    held = {field: same[field] for field in _SAME_COST} | {"eval_every_steps": _STEPS_PER_TRIAL}
    held["num_train_epochs"] = _STEPS_PER_TRIAL * same["effective_batch_size"] / len(bench.questions.train)
    command = [sys.executable, str(ROOT / "tune" / "search.py"), "--name", name, "--results", str(bench.work)]
    command += ["--model", bench.sample_task.model, "--data", bench.sample_task.data]
    command += ["--max-trials", str(_TRIALS_PER_GPU * concurrent), "--concurrent", str(concurrent)]
    command += ["--gpus-per-trial", str(gpus_per_trial)]
    command += [part for field, value in held.items() for part in ("--set", f"{field}={value}")]
    ends: list[float] = []
    began = time.perf_counter()
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            ends += [time.perf_counter() - began] * (len(_outcomes(bench.work / name)) - len(ends))
            time.sleep(0.1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {"ends_seconds": ends, "trial_seconds": [row["seconds"] for row in _outcomes(bench.work / name)]}


def _outcomes(folder: Path) -> list[dict[str, Any]]:
    file = folder / "outcomes.json"
    rows: list[dict[str, Any]] = record.read_json(file) if file.exists() else []
    return rows


def _in_own_process(name: str, bench: Bench, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, __file__, name, bench.task.model, bench.task.data, str(file), str(steps)]
        subprocess.run(command, check=True, timeout=_LONGEST_SECONDS)
        result: dict[str, Any] = record.read_json(file)
    return result


def main(name: str, model: str, data: str, file: Path, steps: int) -> None:
    """Run one of the two, and write what it found."""
    bench = Bench(model, data, file.parent)
    record.write_json(file, {"study": study_run, "plain": plain_run}[name](bench, steps))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))

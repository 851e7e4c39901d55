"""The 4-bit base model, an adapter put on and taken off, and the base kept for the next trial."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medqa.config import Task, TrialConfig
from medqa.errors import ModelError
from medqa.memory import free_memory
from medqa.model_files import QUANTIZATION, fingerprint, first_line, resolve_model
from medqa.prompt import PromptEncoder
from medqa.quiet import silence_libraries

if TYPE_CHECKING:
    import torch

ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_PROJECTIONS = (*ATTENTION_PROJECTIONS, "gate_proj", "up_proj", "down_proj")
AMPERE = (8, 0)
"""Least compute capability of a GPU: older ones have neither products of bf16 nor the attention for packed rows."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A quantised base model with its tokenizer; its weights never change."""

    task: Task
    model: Any
    """transformers causal language model with NF4 linear layers, in evaluation mode, frozen."""
    tokenizer: Any
    encoder: PromptEncoder
    fingerprint: str
    """SHA-256 over config.json, samples of the weight files and the quantisation."""

    @contextlib.contextmanager
    def new_adapter(self, config: TrialConfig, *, fused: bool = True) -> Iterator[Any]:
        """Yield the model with a fresh LoRA adapter, started from `config.seed`; take it off after.

        Args:
            config: The trial's hyperparameters.
            fused: Whether packed rows go through `medqa.fused_layers` where the model's layers can.
        """
        from peft import LoraConfig, get_peft_model
        from transformers import set_seed

        from medqa.fused_layers import unfuse_layers

        targets = ALL_PROJECTIONS if config.lora_targets == "all" else ATTENTION_PROJECTIONS
        require_projections(self.model, targets)
        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=list(targets),
            use_rslora=config.use_rslora,
            task_type="CAUSAL_LM",
        )
        set_seed(config.seed)
        with self._taking_off():
            with self.model.device:  # its numbers are drawn where they are used, not by the host
                model = get_peft_model(self.model, lora)
            _round_to_bf16(model)
            self.fuse(model) if fused else unfuse_layers(self.model)
            yield model

    @contextlib.contextmanager
    def adapter_from(self, folder: Path) -> Iterator[Any]:
        """Yield the model with the adapter saved in `folder`; take it off after.

        Raises:
            ModelError: when the folder holds no adapter, or one that does not load.
        """
        from peft import PeftModel
        from safetensors import SafetensorError

        if not (folder / "adapter_config.json").is_file():
            raise ModelError(f"{folder}: no adapter here (adapter_config.json is missing)")
        with self._taking_off():
            try:
                model = PeftModel.from_pretrained(self.model, folder)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
                raise ModelError(f"{folder}: the adapter does not load ({first_line(error)})") from error
            self.fuse(model)
            yield model

    def fuse(self, adapted: Any | None = None) -> None:
        """Let packed rows go through `medqa.fused_layers`, with the adapter of `adapted`, a PeftModel, if given."""
        from medqa.fused_layers import can_fuse, fuse_layers

        if can_fuse(self.model):
            fuse_layers(self.model, adapted)

    @contextlib.contextmanager
    def _taking_off(self) -> Iterator[None]:
        """Undo all that PEFT and TRL put on the model, so that it computes what it did before."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        try:
            yield
        finally:
            for name, module in list(self.model.named_modules()):
                if isinstance(module, BaseTunerLayer):
                    parent, _, child = name.rpartition(".")
                    setattr(self.model.get_submodule(parent), child, module.get_base_layer())
            # TRL's fused head and the gradient-checkpointing hook live on the model, not on the adapter
            for name in ("forward", "peft_config", "model_tags"):
                self.model.__dict__.pop(name, None)
            self.model.gradient_checkpointing_disable()
            if hasattr(self.model, "_require_grads_hook"):
                self.model.disable_input_require_grads()
            self.model.requires_grad_(False)
            self.model.zero_grad(set_to_none=True)
            self.model.eval()
            self.fuse()
            _forget_optimizers()
            gc.collect()  # of the trainer's cycles; the memory stays with the process, for the next trial


def load_base(task: Task) -> BaseModel:
    """Return the base model of `task`, quantised to NF4; the same task again returns the one in memory.

    Raises:
        ModelError: when the model cannot be had or used, or the GPU is too old.
    """
    # One base at a time: a second 7B model beside the first would not fit on most GPUs.
    if _load_base.cache_info().currsize and task not in _loaded:
        _load_base.cache_clear()
        gc.unfreeze()
        free_memory()
    _loaded[:] = [task]
    return _load_base(task)


_loaded: list[Task] = []


@functools.lru_cache(maxsize=1)
def _load_base(task: Task) -> BaseModel:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from medqa.fused_layers import can_fuse
    from medqa.packing import require_separate_sequences

    silence_libraries()
    _require_ampere()
    folder = resolve_model(task)
    dtype = compute_dtype()
    quantization = BitsAndBytesConfig(bnb_4bit_compute_dtype=dtype, **QUANTIZATION)
    try:
        tokenizer = load_tokenizer(str(folder))
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            quantization_config=quantization,
            dtype=torch.bfloat16,
            device_map={"": 0 if torch.cuda.is_available() else "cpu"},
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: the model does not load ({first_line(error)})") from error
    _keep_gradients_on_cpu(model)
    compute_in(model, dtype)
    model.requires_grad_(False).eval()
    if not can_fuse(model):
        require_separate_sequences(model)
    base = BaseModel(task, model, tokenizer, PromptEncoder(tokenizer), fingerprint(folder))
    base.fuse()
    # what is here now stays: to look through it for garbage after every trial takes half a second
    gc.collect()
    gc.freeze()
    return base


def _require_ampere() -> None:
    """Raise ModelError where the GPU is older than AMPERE."""
    import torch

    if torch.cuda.is_available() and torch.cuda.get_device_capability() < AMPERE:
        name = torch.cuda.get_device_name()
        raise ModelError(f"{name} is too old: use an NVIDIA GPU from Ampere on, which computes in bf16")


def compute_dtype() -> torch.dtype:
    """Return the type in which models compute: bf16, or fp32 on a CPU for which torch has no products of bf16.

    On such a CPU, which are those without AVX-512, a product of bf16 matrices takes ten to twenty times as long.
    """
    import torch

    if torch.cuda.is_available():
        return torch.bfloat16
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def compute_in(model: Any, dtype: torch.dtype) -> None:
    """Let a model compute in a type; what its NF4 weights stand for is rounded to it, its other weights stay bf16's."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.compute_dtype = dtype
            module.weight.quant_state.dtype = dtype
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)


def load_tokenizer(source: str, revision: str | None = None) -> Any:
    """Return the tokenizer of a local folder or a Hub model, with a token to pad with."""
    from transformers import AutoTokenizer

    # the Hugging Face tokenizer also where mistral-common is installed, so that one template holds everywhere
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False, mistral_format=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def _round_to_bf16(model: Any) -> None:
    """Let an adapter start from the numbers from which TRL starts: it turns those on a quantised model into bf16."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.bfloat16().float()


def _forget_optimizers() -> None:
    """Let bitsandbytes forget the embeddings that transformers shows it for each 8-bit optimizer, each time anew."""
    import bitsandbytes

    bitsandbytes.optim.GlobalOptimManager.get_instance().initialize()


def _keep_gradients_on_cpu(model: Any) -> None:
    """Keep bitsandbytes from repacking weights on CPUs with AVX512-BF16.

    A layer called once without gradients is repacked there for good, and the gradient through it is
    silently lost afterwards: an evaluation would end the learning.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def require_projections(model: Any, targets: tuple[str, ...] = ALL_PROJECTIONS) -> None:
    """Raise ModelError unless the model has layers of these names, on which LoRA can be put."""
    present = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    missing = [target for target in targets if target not in present]
    if missing:
        raise ModelError(f"{type(model).__name__} has no layers named {', '.join(missing)}: LoRA cannot be put on it")

"""The 4-bit base: adapters come and go without a trace, and evaluation never ends the learning."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from medqa.config import Task, TrialConfig
from medqa.errors import DataError, ModelError
from medqa.model import BaseModel, _require_ampere, compute_dtype, compute_in, load_base
from medqa.model_files import check_model
from medqa.packing import pack, packed_attention
from medqa.questions import Question, load_search_questions
from medqa.scoring import score_questions
from medqa.weights import drop_weights, keep_weights

FEW = TrialConfig(lora_rank=4, lora_alpha=8, lora_dropout=0.0)


@pytest.fixture(scope="module")
def base(tiny_mistral: Path) -> BaseModel:
    return load_base(Task(model=str(tiny_mistral), data="unused"))


def _train_one_step(model: Any, fused: bool) -> dict[str, torch.Tensor]:
    ids = torch.arange(5, 25).reshape(2, 10)
    with packed_attention(model.get_base_model()) if fused else contextlib.nullcontext():
        rows = pack(list(ids)) if fused else {"input_ids": ids}
        model(**rows, labels=ids.reshape(rows["input_ids"].shape), use_cache=False).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_base_is_nf4_with_double_quantisation_and_frozen(base: BaseModel) -> None:
    import bitsandbytes

    linear = [m for m in base.model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(linear) == 14
    for module in linear:
        assert module.weight.quant_state.quant_type == "nf4"
        assert module.weight.quant_state.nested
        assert module.compute_dtype == base.model.dtype == compute_dtype()
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_an_adapter_that_does_not_load_is_one_line_and_leaves_the_base_as_it_was(
    base: BaseModel, tmp_path: Path
) -> None:
    names = [name for name, _ in base.model.named_modules()]
    with base.new_adapter(FEW) as model:
        model.save_pretrained(tmp_path)
    settings = tmp_path / "adapter_config.json"
    original = settings.read_text()
    for content in (original.replace('"r": 4', '"r": 8'), original[:9]):  # another rank than the weights have; cut
        assert content != original
        settings.write_text(content)
        with pytest.raises(ModelError, match=r"^[^\n]*the adapter does not load[^\n]*$"), base.adapter_from(tmp_path):
            pass
        assert [name for name, _ in base.model.named_modules()] == names
    settings.write_text(original)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ModelError, match="the adapter does not load"), base.adapter_from(tmp_path):
        pass


@pytest.mark.parametrize(("has_products", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_without_products_of_bf16_computes_in_fp32(
    monkeypatch: pytest.MonkeyPatch, has_products: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_products)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute_dtype() == dtype
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert compute_dtype() == torch.float32


def test_a_gpu_without_bf16_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(ModelError, match="^Tesla T4 is too old: use an NVIDIA GPU from Ampere on"):
        _require_ampere()


def test_in_fp32_the_weights_are_those_that_bf16_rounds(base: BaseModel) -> None:
    layers = [base.model.model.layers[0].mlp.up_proj, base.model.lm_head]
    seen = {}
    try:
        for dtype in (torch.bfloat16, torch.float32):
            compute_in(base.model, dtype)
            keep_weights(base.model)
            seen[dtype] = [layers[0].kept_weight.clone(), layers[1].weight.clone()]
            assert {weight.dtype for weight in seen[dtype]} == {dtype}
            drop_weights(base.model)
    finally:
        compute_in(base.model, compute_dtype())
    for in_bf16, in_fp32 in zip(*seen.values(), strict=True):
        assert torch.equal(in_bf16, in_fp32.bfloat16())


@pytest.mark.parametrize(("targets", "count"), [("all", 14), ("attention", 8)])
def test_an_adapter_comes_and_goes_without_a_trace(base: BaseModel, targets: Any, count: int) -> None:
    ids = torch.arange(3, 43).reshape(2, 20)
    before, attributes = base.model(ids).logits, set(base.model.__dict__)
    config = TrialConfig(lora_rank=4, lora_targets=targets)
    with base.new_adapter(config) as model:
        factors = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
        assert len(factors) == 2 * count
        assert sum(factor.numel() for factor in factors) <= model.adapter_values.numel()
        for factor in factors:
            torch.nn.init.normal_(factor)
        assert not torch.equal(model(ids).logits, before)
    assert torch.equal(base.model(ids).logits, before)
    assert set(base.model.__dict__) == attributes
    assert not any("lora" in name for name, _ in base.model.named_modules())


def test_rslora_scales_by_the_root_of_the_rank(base: BaseModel) -> None:
    from peft.tuners.lora import LoraLayer

    scales = []
    for use_rslora in (False, True):
        with base.new_adapter(TrialConfig(lora_rank=16, lora_alpha=32, use_rslora=use_rslora)) as model:
            scales.append({m.scaling["default"] for m in model.modules() if isinstance(m, LoraLayer)})
    assert scales == [{2.0}, {8.0}]


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_are_the_same_before_and_after_an_evaluation(base: BaseModel, fused: bool) -> None:
    with base.new_adapter(FEW, fused=fused) as model:
        before = _train_one_step(model, fused)
        model.eval()
        with torch.no_grad():
            model(input_ids=torch.arange(5, 25).reshape(2, 10))
        model.train()
        model.zero_grad()
        after = _train_one_step(model, fused)
    assert before
    assert max(float(gradient.abs().max()) for gradient in before.values()) > 0
    assert all(torch.equal(before[name], after[name]) for name in before)
    import bitsandbytes

    layers = [m for m in base.model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_the_base_stays_in_memory_and_the_same_seed_starts_the_same_adapter(base: BaseModel) -> None:
    assert load_base(base.task) is base
    starts = []
    for _ in range(2):
        torch.rand(7)
        with base.new_adapter(FEW) as model:
            starts.append([p.clone() for name, p in model.named_parameters() if "lora_" in name])
    assert all(torch.equal(one, two) for one, two in zip(*starts, strict=True))


def test_scores_do_not_depend_on_padding_or_on_the_lm_loss(base: BaseModel, question_folder: Path) -> None:
    questions = list(load_search_questions(str(question_folder)).validation)
    questions[2] = Question("long", "word " * 90 + "?", questions[2].options, "A")
    together = score_questions(base.model, base.encoder, questions)
    with_loss = score_questions(base.model, base.encoder, questions, with_lm_loss=True)
    for row, question in enumerate(questions):
        alone = score_questions(base.model, base.encoder, [question]).predictions[0]
        for other in (together.predictions[row], with_loss.predictions[row]):
            assert other.id == alone.id == question.id
            # bf16 keeps 8 bits: sums in another order move log-probabilities by about 1e-2
            assert other.gold_nll == pytest.approx(alone.gold_nll, abs=3e-2)
    assert with_loss.lm_loss == pytest.approx(10.4, abs=0.5)


def test_scores_are_read_at_the_position_before_the_answer(base: BaseModel, question_folder: Path) -> None:
    question = load_search_questions(str(question_folder)).validation[0]
    prediction = score_questions(base.model, base.encoder, [question]).predictions[0]
    ids = torch.tensor([base.encoder.encode(question).prompt_ids])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=base.model.dtype == torch.bfloat16):
        log_probabilities = torch.log_softmax(base.model(ids).logits[0, -1].double(), dim=-1)
    letters = torch.stack([log_probabilities[base.encoder.letter_ids[letter]] for letter in "ABCD"])
    assert prediction.letter_mass == pytest.approx(float(letters.exp().sum()), rel=1e-2)
    expected = dict(zip("ABCD", torch.softmax(letters, 0).tolist(), strict=True))
    assert prediction.probabilities == pytest.approx(expected, rel=2e-2)
    assert sum(prediction.probabilities.values()) == pytest.approx(1)


def test_a_prompt_longer_than_the_model_is_refused_and_not_cut(base: BaseModel, question_folder: Path) -> None:
    question = load_search_questions(str(question_folder)).validation[0]
    long = Question("too-long", "word " * 5000, question.options, "A")
    with pytest.raises(DataError, match="'too-long' makes a prompt of .* it is not cut"):
        score_questions(base.model, base.encoder, [long])
    with pytest.raises(DataError, match="no questions"):
        score_questions(base.model, base.encoder, [])


@pytest.mark.parametrize(
    ("remove", "fault"),
    [
        ("config.json", "not a model folder"),
        ("*.safetensors", "no weights as"),
        ("tokenizer*", "no tokenizer"),
    ],
)
def test_an_unusable_model_folder_is_refused(remove: str, fault: str, tiny_mistral: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_mistral, folder)
    for path in folder.glob(remove):
        path.unlink()
    with pytest.raises(ModelError, match=fault):
        check_model(Task(model=str(folder)))


def test_missing_folders_and_hub_models_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        check_model(Task(model=str(tmp_path / "absent")))
    with pytest.raises(ModelError, match="give a local folder with --model"):
        check_model(Task(model="mistralai/Mistral-7B-Instruct-v0.3"))


def test_a_gated_model_asks_for_the_licence_and_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2 as httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise GatedRepoError("gated", response=httpx.Response(403, request=httpx.Request("GET", "http://localhost")))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ModelError, match="accept it on its Hub page, then set HF_TOKEN"):
        check_model(Task(model="mistralai/Mistral-7B-Instruct-v0.3"))


def test_a_model_is_loaded_from_the_hubs_cache(
    tiny_mistral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from medqa.model_files import resolve_model

    cache = tmp_path / "models--tiny--mistral"
    shutil.copytree(tiny_mistral, cache / "snapshots" / "abc123")
    (cache / "snapshots" / "abc123" / "consolidated.safetensors").write_bytes(b"twice")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    task = Task(model="tiny/mistral")
    check_model(task)
    folder = resolve_model(task)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "mistral"

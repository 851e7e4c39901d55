"""Writes a Mistral of any size with random weights and Mistral-7B-Instruct-v0.3's real tokenizer.

python tests/benchmarks/random_mistral.py FOLDER            # Mistral-7B's exact shape, 14.5 GB
python tests/benchmarks/random_mistral.py FOLDER --tiny     # two layers of 64 units
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from importlib import resources
from pathlib import Path

SHAPE_7B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "sliding_window": None,
}
SHAPE_TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
VOCABULARY_SIZE = 32768
# the form in which Mistral-7B-Instruct-v0.3 was trained: <s>[INST] user[/INST] assistant</s>
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }}[/INST]{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def write_tokenizer(folder: Path) -> None:
    """Write the tokenizer that mistral-common carries, as transformers' files."""
    from transformers import AutoTokenizer

    source = resources.files("mistral_common") / "data" / "mistral_instruct_tokenizer_240323.model.v3"
    with tempfile.TemporaryDirectory() as raw, resources.as_file(source) as path:
        shutil.copy(path, Path(raw) / "tokenizer.model")
        config = {"model_type": "mistral", "vocab_size": VOCABULARY_SIZE}
        (Path(raw) / "config.json").write_text(json.dumps(config))
        tokenizer = AutoTokenizer.from_pretrained(raw)
        tokenizer.chat_template = MISTRAL_TEMPLATE
        tokenizer.save_pretrained(folder)


def write_model(folder: Path, shape: dict[str, object], seed: int = 0) -> None:
    """Write config, tokenizer and one safetensors shard per layer; weights are normal with deviation 0.02."""
    import torch
    from safetensors.torch import save_file
    from transformers import MistralConfig, MistralForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    config = MistralConfig(vocab_size=VOCABULARY_SIZE, architectures=["MistralForCausalLM"], **shape)
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    with torch.device("meta"):
        empty = MistralForCausalLM(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in empty.state_dict().items():
        part = name.split(".")[2] if ".layers." in name else "ends"
        if "norm" in name:
            value = torch.ones(weight.shape, dtype=torch.bfloat16)
        else:
            normal = torch.randn(weight.shape, generator=generator, device=device, dtype=torch.bfloat16)
            value = (normal * 0.02).cpu()
        shards.setdefault(part, {})[name] = value
    index: dict[str, str] = {}
    for number, tensors in enumerate(shards.values(), 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def main() -> None:
    """Write the model that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    write_model(arguments.folder, SHAPE_TINY if arguments.tiny else SHAPE_7B)


if __name__ == "__main__":
    main()

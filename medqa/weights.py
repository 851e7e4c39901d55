"""The base's NF4 weights as the numbers that they stand for, worked out at each use or once and kept."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn import functional


def weight_of(layer: Any) -> torch.Tensor:
    """Return the weight of a bitsandbytes Linear4bit as it multiplies, (out, in): kept, or worked out anew."""
    kept: torch.Tensor | None = layer.__dict__.get("kept_weight")
    return _dequantized(layer) if kept is None else kept


def keep_weights(model: Any) -> None:
    """Work out every NF4 weight of the model once and keep it: the same rounded values, without the work at each use.

    They are of the type in which the layers compute, on a GPU two bytes a weight; the four bits stay.
    """
    for layer in _quantized_layers(model):
        if "kept_weight" not in layer.__dict__:
            layer.__dict__["kept_weight"] = _dequantized(layer)
            layer.__dict__.pop("block_scales")
            layer.forward = functools.partial(_multiply, layer)


def drop_weights(model: Any) -> None:
    """Free what `keep_weights` kept."""
    for layer in _quantized_layers(model):
        for name in ("kept_weight", "forward"):
            layer.__dict__.pop(name, None)


def bytes_to_keep(model: Any) -> int:
    """Return the bytes that `keep_weights` takes."""
    layers = _quantized_layers(model)
    return sum(layer.compute_dtype.itemsize * layer.in_features * layer.out_features for layer in layers)


def scale_bytes(model: Any) -> int:
    """Return the bytes that the blocks' scales take where the weights are not kept."""
    return sum(4 * layer.in_features * layer.out_features // 64 for layer in _quantized_layers(model))


def kept_bytes(model: Any) -> int:
    """Return the bytes that are kept now, of weights or of scales."""
    names = ("kept_weight", "block_scales")
    kept = [layer.__dict__[name] for layer in _quantized_layers(model) for name in names if name in layer.__dict__]
    return sum(tensor.nbytes for tensor in kept)


def _quantized_layers(model: Any) -> list[Any]:
    import bitsandbytes

    return [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]


def _dequantized(layer: Any) -> torch.Tensor:
    state = layer.weight.quant_state
    if "block_scales" not in layer.__dict__:
        layer.__dict__["block_scales"] = _block_scales(state)
    weight: torch.Tensor = torch.ops.bitsandbytes.dequantize_4bit(
        layer.weight.data, layer.block_scales, state.blocksize, state.quant_type, state.shape, state.dtype
    )
    return weight


def _block_scales(state: Any) -> torch.Tensor:
    """Undo the second quantisation, that of the blocks' scales, as bitsandbytes does at each use; kept from then on.

    They take half a bit a weight; working them out takes the host longer than the GPU needs for the weight itself.
    """
    import bitsandbytes

    if not state.nested:
        scales: torch.Tensor = state.absmax
        return scales
    return (bitsandbytes.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset).float()


def _multiply(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    return functional.linear(inputs, layer.kept_weight.to(inputs.dtype), layer.bias)

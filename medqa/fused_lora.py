"""Projections of one input with their LoRA updates, forwards and backwards, without the steps that autograd needs.

PEFT computes x W^T, then dropout(x) A^T B^T, then scales it and adds the two: each step reads and writes activations
as large as the output, and autograd adds up the gradients of x one by one. Here the update is accumulated by the matrix
products themselves; projections that read the same input share its product with A; and all A's and B's lie in one
tensor, which is rounded, clipped and stepped as one.

Shape letters: N tokens, I units in, O units out, R rank, S ranks of all projections of one input.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medqa.weights import weight_of

_BLOCK = 256
"""Parameters that an 8-bit optimizer scales together: no block holds those of two inputs."""


@dataclass(frozen=True, slots=True)
class _Factors:
    """Views of the factors of one input's projections, in one of the adapter's tensors."""

    first_SI: torch.Tensor
    """All A's, one under the other."""
    second_OR: tuple[torch.Tensor, ...]
    """The B's."""


class Adapter:
    """All A's, then all B's, of an adapter in one tensor: the fp32 values, their gradient, and what multiplies.

    Args:
        groups: LoRA layers by shared input; their parameters become views of `values`.
        dtype: Type in which the model multiplies; the B's are scaled before they are rounded to it.
    """

    def __init__(self, groups: Sequence[Sequence[Any]], dtype: torch.dtype) -> None:
        device = groups[0][0].lora_A["default"].weight.device
        self._first_end = sum(_size(layers, "lora_A") for layers in groups)
        total = self._first_end + sum(_size(layers, "lora_B") for layers in groups)
        self._scaling = float(groups[0][0].scaling["default"])
        self.values = torch.nn.Parameter(torch.zeros(total, device=device))
        self._gradient = torch.zeros(total, device=device)
        self._rounded = torch.zeros(total, device=device, dtype=dtype)
        self.multiplying = _views(self._rounded, groups)
        self.gradients = _views(self._gradient, groups)
        for layers, factors in zip(groups, _views(self.values.data, groups), strict=True):
            first = factors.first_SI.split([layer.r["default"] for layer in layers])
            for layer, first_RI, second_OR in zip(layers, first, factors.second_OR, strict=True):
                _move(layer.lora_A["default"].weight, first_RI)
                _move(layer.lora_B["default"].weight, second_OR)

    def round(self) -> None:
        """Bring what multiplies up to date with the values."""
        values, end = self.values.detach(), self._first_end
        self._rounded[:end].copy_(values[:end])
        torch.mul(values[end:], self._scaling, out=self._rounded[end:])

    def add_gradients(self, number: int, first_SI: torch.Tensor, second_OR: Sequence[torch.Tensor]) -> None:
        """Add the gradients of one input's factors; those of the B's are of the scaled ones."""
        if self.values.grad is None:
            self._gradient.zero_()
            self.values.grad = self._gradient
        total = self.gradients[number]
        total.first_SI.add_(first_SI)
        for sum_OR, part_OR in zip(total.second_OR, second_OR, strict=True):
            sum_OR.add_(part_OR, alpha=self._scaling)


def _size(layers: Sequence[Any], name: str) -> int:
    size: int = sum(getattr(layer, name)["default"].weight.numel() for layer in layers)
    return math.ceil(size / _BLOCK) * _BLOCK


def _views(flat: torch.Tensor, groups: Sequence[Sequence[Any]]) -> list[_Factors]:
    parts = flat.split([_size(layers, name) for name in ("lora_A", "lora_B") for layers in groups])
    views = []
    for layers, first, second in zip(groups, parts[: len(groups)], parts[len(groups) :], strict=True):
        ranks, inputs = [layer.r["default"] for layer in layers], layers[0].in_features
        sizes = [layer.out_features * layer.r["default"] for layer in layers]
        second_OR = second[: sum(sizes)].split(sizes)
        views.append(
            _Factors(
                first[: sum(ranks) * inputs].view(sum(ranks), inputs),
                tuple(part.view(-1, rank) for part, rank in zip(second_OR, ranks, strict=True)),
            )
        )
    return views


def _move(parameter: torch.nn.Parameter, place: torch.Tensor) -> None:
    place.copy_(parameter.detach())
    parameter.requires_grad_(False)
    parameter.data = place


class Projections:
    """Linear layers of one input: y_i = x W_i^T + s dropout_i(x) A_i^T B_i^T, where W_i is frozen.

    LoRA: Hu et al., arXiv:2106.09685, equation 3. The factors are rounded to the input's type where they multiply, as
    autocast rounds them. Their gradients are added to the adapter's at once.

    Args:
        layers: bitsandbytes' Linear4bit each, or PEFT's LoRA layer around one.
        adapter: Holds the factors of LoRA layers; None where these are none.
        number: Place of these layers among the adapter's groups.
    """

    def __init__(self, layers: Sequence[Any], adapter: Adapter | None, number: int) -> None:
        self.layers, self.adapter, self.number = layers, adapter, number
        self.frozen = [layer.get_base_layer() if adapter else layer for layer in layers]
        self.ranks = [layer.r["default"] for layer in layers] if adapter else []

    def forward(self, rows_NI: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the projections, each (N, O), and what `backward` needs beside the input."""
        if self.adapter is None:
            return [_multiplied(rows_NI, frozen) for frozen in self.frozen], []
        factors = self.adapter.multiplying[self.number]
        reduced_NS, masks = self._reduce(rows_NI, factors.first_SI)
        outputs = []
        for frozen, reduced_NR, second_OR in zip(self.frozen, self._split(reduced_NS), factors.second_OR, strict=True):
            output_NO = torch.mm(reduced_NR, second_OR.T).addmm_(rows_NI, _weight(frozen, rows_NI).T)
            outputs.append(output_NO if frozen.bias is None else output_NO.add_(frozen.bias))
        return outputs, [reduced_NS, *masks]

    def backward(
        self,
        rows_NI: torch.Tensor,
        kept: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor],
        of_input: bool = True,
    ) -> torch.Tensor:
        """Add the factors' gradients to the adapter's and return the input's, without `of_input` a part of it."""
        if self.adapter is None:
            of_rows_NI = torch.zeros_like(rows_NI)
        else:
            of_rows_NI = self._through_factors(self.adapter, rows_NI, kept, gradients)
        if of_input:
            for frozen, gradient_NO in zip(self.frozen, gradients, strict=True):
                of_rows_NI.addmm_(gradient_NO, _weight(frozen, rows_NI))
        return of_rows_NI

    def _reduce(self, rows_NI: torch.Tensor, first_SI: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        probability = self._dropout()
        if probability == 0.0:
            return rows_NI @ first_SI.T, []
        reduced_NS = rows_NI.new_empty(len(rows_NI), len(first_SI))
        masks = []
        for first_RI, reduced_NR in zip(first_SI.split(self.ranks), self._split(reduced_NS), strict=True):
            dropped_NI, mask_NI = torch.native_dropout(rows_NI, probability, True)
            torch.mm(dropped_NI, first_RI.T, out=reduced_NR)
            masks.append(mask_NI)
        return reduced_NS, masks

    def _through_factors(
        self,
        adapter: Adapter,
        rows_NI: torch.Tensor,
        kept: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        factors, (reduced_NS, *masks) = adapter.multiplying[self.number], kept
        of_reduced_NS = torch.empty_like(reduced_NS)
        of_second = []
        for gradient_NO, second_OR, reduced_NR, of_reduced_NR in zip(
            gradients, factors.second_OR, self._split(reduced_NS), self._split(of_reduced_NS), strict=True
        ):
            torch.mm(gradient_NO, second_OR, out=of_reduced_NR)
            of_second.append(gradient_NO.T @ reduced_NR)
        through = self._through_dropout if masks else self._through_first
        of_first_SI, of_rows_NI = through(rows_NI, factors.first_SI, of_reduced_NS, masks)
        adapter.add_gradients(self.number, of_first_SI, of_second)
        return of_rows_NI

    def _through_first(
        self, rows_NI: torch.Tensor, first_SI: torch.Tensor, of_reduced_NS: torch.Tensor, masks: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of the A's, and of the input as far as it comes through them."""
        return of_reduced_NS.T @ rows_NI, of_reduced_NS @ first_SI

    def _through_dropout(
        self, rows_NI: torch.Tensor, first_SI: torch.Tensor, of_reduced_NS: torch.Tensor, masks: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same through the masks with which the input was dropped before each A."""
        undrop = functools.partial(torch.ops.aten.native_dropout_backward, scale=1.0 / (1.0 - self._dropout()))
        of_first_SI, parts = torch.empty_like(first_SI), []
        for first_RI, of_first_RI, of_reduced_NR, mask_NI in zip(
            first_SI.split(self.ranks), of_first_SI.split(self.ranks), self._split(of_reduced_NS), masks, strict=True
        ):
            torch.mm(of_reduced_NR.T, undrop(rows_NI, mask_NI), out=of_first_RI)
            parts.append(undrop(of_reduced_NR @ first_RI, mask_NI))
        return of_first_SI, functools.reduce(torch.Tensor.add_, parts)

    def _split(self, all_NS: torch.Tensor) -> Sequence[torch.Tensor]:
        parts: Sequence[torch.Tensor] = all_NS.split(self.ranks, dim=1)
        return parts

    def _dropout(self) -> float:
        module = self.layers[0].lora_dropout["default"]
        return float(module.p) if isinstance(module, torch.nn.Dropout) and module.training else 0.0


def _weight(frozen: Any, like: torch.Tensor) -> torch.Tensor:
    return weight_of(frozen).to(like.dtype)


def _multiplied(rows_NI: torch.Tensor, frozen: Any) -> torch.Tensor:
    return torch.nn.functional.linear(rows_NI, _weight(frozen, rows_NI), frozen.bias)

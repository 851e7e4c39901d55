"""Decoder layers whose forward and backward passes are written out, with the adapter in them, for packed rows.

Autograd sees one step a layer in place of some forty, and a GPU gets its work in time: at the shape of Mistral-7B a
layer takes 2 ms of GPU time forwards, less than the host needs to ask for it step by step.

Of the last layer only its keys and values are needed of every token: what follows its attention is computed at the
places that are read.

Shape letters: N tokens, P places after the attention (all N but in the last layer), U hidden units, H heads, D units of
a head, F units between gate, up and down, V vocabulary.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from medqa import kernels
from medqa.fused_lora import Adapter, Projections
from medqa.kernels import Rows

_KNOWN_TYPES = ("llama", "mistral", "qwen2")
"""transformers' names of the architectures whose layers are computed as here: RMS norm, rotary positions, grouped
heads, SwiGLU; no norm on queries and keys, no other scale."""


def can_fuse(model: Any) -> bool:
    """Whether the layers of a transformers causal language model are of the kind that is written out here."""
    return model.config.model_type in _KNOWN_TYPES and model.config.hidden_act == "silu"


def fuse_layers(model: Any, adapted: Any | None = None) -> None:
    """Let the model's decoder layers compute packed rows by this module, and all other rows as before.

    With an adapter its parameters become views of a new one, `adapter_values`, which is trained in their place; saving
    and loading go on as before.

    Args:
        model: transformers causal language model of NF4 linear layers for which `can_fuse` holds.
        adapted: PeftModel around it, with one adapter without DoRA and without biases of its own.
    """
    unfuse_layers(model)
    groups = [group for layer in model.model.layers for group in _groups(layer)]
    with_lora = [group for group in groups if hasattr(group[0], "lora_A")]
    adapter = Adapter(with_lora, model.dtype) if with_lora else None
    if adapted is not None and adapter is not None:
        adapted.register_parameter("adapter_values", adapter.values)
    numbers = itertools.count()
    for layer in model.model.layers:
        projections = [
            Projections(group, adapter, next(numbers)) if hasattr(group[0], "lora_A") else Projections(group, None, 0)
            for group in _groups(layer)
        ]
        fused = _FusedLayer(layer, adapter, projections, is_last=layer is model.model.layers[-1])
        layer.forward = functools.partial(_forward, layer, fused)


def unfuse_layers(model: Any) -> None:
    """Let the decoder layers compute by transformers again; of other kinds they always do."""
    if not can_fuse(model):
        return
    for layer in model.model.layers:
        layer.__dict__.pop("forward", None)


def is_fused(model: Any) -> bool:
    """Whether packed rows of a model, or of a PeftModel around it, go through this module."""
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    return can_fuse(core) and "forward" in vars(core.model.layers[-1])


def logits_at(model: Any, row: Mapping[str, Any], places_P: torch.Tensor) -> torch.Tensor:
    """Return the logits (P, V) after the given places of a packed row, each named once."""
    places = {"read_at": places_P} if is_fused(model) else {"logits_to_keep": places_P}
    logits_PV: torch.Tensor = model(**row, **places, use_cache=False).logits[0]
    return logits_PV


def _groups(layer: Any) -> list[list[Any]]:
    """Return a layer's projections, those of one input together."""
    attention, mlp = layer.self_attn, layer.mlp
    return [
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [mlp.gate_proj, mlp.up_proj],
        [mlp.down_proj],
    ]


def _forward(layer: Any, fused: _FusedLayer, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Compute as transformers' layer does, whose arguments these are."""
    if "cu_seq_lens_q" not in kwargs:
        output: torch.Tensor = type(layer).forward(layer, hidden_states, *args, **kwargs)
        return output
    kernels.require_window(layer.self_attn.config, kwargs["max_length_k"])
    rows = kernels.rows_of(kwargs, kwargs["position_embeddings"])
    if fused.adapter is None:
        return fused.forward(hidden_states[0], rows)[0][None]
    if fused.is_first:  # the values may have changed since the pass before
        fused.adapter.round()
    # transformers' own checkpointing lies in the forward method that this one replaces
    checkpointing = layer.gradient_checkpointing and layer.training and torch.is_grad_enabled()
    step = functools.partial(checkpoint, _Step.apply, use_reentrant=False) if checkpointing else _Step.apply
    return step(hidden_states, fused.adapter.values, fused, rows)


class _Step(torch.autograd.Function):
    """A decoder layer as one step of autograd's."""

    @staticmethod
    def forward(
        ctx: Any, hidden_1NU: torch.Tensor, values: torch.Tensor, layer: _FusedLayer, rows: Rows
    ) -> torch.Tensor:
        """Compute the layer; `values` is there so that backward is called, which adds to its gradient."""
        output_PU, kept = layer.forward(hidden_1NU[0], rows)
        ctx.layer, ctx.rows, ctx.sizes = layer, rows, [len(part) for part in kept]
        ctx.save_for_backward(*itertools.chain(*kept))
        return output_PU[None]

    @staticmethod
    def backward(ctx: Any, gradient_1PU: torch.Tensor) -> Any:
        """Return the gradient of the layer's input where it is asked for: not of the first layer's, the embeddings."""
        saved = iter(ctx.saved_tensors)
        kept = [[next(saved) for _ in range(size)] for size in ctx.sizes]
        of_input_NU = ctx.layer.backward(gradient_1PU[0], kept, ctx.rows, ctx.needs_input_grad[0])
        return None if of_input_NU is None else of_input_NU[None], None, None, None


class _FusedLayer:
    """One decoder layer: x' = x + attention(norm(x)), x' + mlp(norm(x'))."""

    def __init__(self, layer: Any, adapter: Adapter | None, projections: Sequence[Projections], is_last: bool) -> None:
        self.adapter, self.is_last = adapter, is_last
        self.attention = layer.self_attn
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.is_first = layer.self_attn.layer_idx == 0
        self.query_key_value, self.output, self.gate_up, self.down = projections

    def forward(self, hidden_NU: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
        """Return the layer's output and what `backward` needs, in parts."""
        normed_NU, factor_N1 = _norm(hidden_NU, self.norms[0])
        (query, key, value), kept_qkv = self.query_key_value.forward(normed_NU)
        query_NHD, key_NHD = kernels.rotate(self._heads(query), self._heads(key), rows)
        value_NHD = self._heads(value)
        scaling, number = self.attention.scaling, self.attention.layer_idx
        attended_NHD, state = kernels.attend(query_NHD, key_NHD, value_NHD, rows, scaling, number)
        places_P = rows.read_at_P if self.is_last else None
        (attention_PU,), kept_output = self.output.forward(_at(places_P, attended_NHD.flatten(1)))
        # not onto the stream as the products are made: an update smaller than its rounding would vanish each time
        middle_PU = attention_PU.add_(_at(places_P, hidden_NU))
        middle_normed_PU, middle_factor_P1 = _norm(middle_PU, self.norms[1])
        (gate_PF, up_PF), kept_gate_up = self.gate_up.forward(middle_normed_PU)
        product_PF = kernels.gated(gate_PF, up_PF)
        (mlp_PU,), kept_down = self.down.forward(product_PF)
        of_attention = [hidden_NU, factor_N1, normed_NU, query_NHD, key_NHD, value_NHD, attended_NHD]
        of_mlp = [middle_PU, middle_factor_P1, middle_normed_PU, gate_PF, up_PF, product_PF]
        kept = [of_attention, state, of_mlp, kept_qkv, kept_output, kept_gate_up, kept_down]
        return mlp_PU.add_(middle_PU), kept

    def backward(
        self, gradient_PU: torch.Tensor, kept: list[list[torch.Tensor]], rows: Rows, of_input: bool = True
    ) -> torch.Tensor | None:
        """Add the adapter's gradients and return the input's, if that is asked for."""
        of_attention, state, of_mlp, kept_qkv, kept_output, kept_gate_up, kept_down = kept
        middle_PU, middle_factor_P1, middle_normed_PU, gate_PF, up_PF, product_PF = of_mlp
        of_product_PF = self.down.backward(product_PF, kept_down, [gradient_PU])
        of_gate_up = kernels.gated_gradients(of_product_PF, gate_PF, up_PF)
        of_normed_PU = self.gate_up.backward(middle_normed_PU, kept_gate_up, of_gate_up)
        of_middle_PU = _norm_gradient(of_normed_PU, middle_PU, middle_factor_P1, self.norms[1]).add_(gradient_PU)

        hidden_NU, factor_N1, normed_NU, *query_key_value, attended_NHD = of_attention
        places_P = rows.read_at_P if self.is_last else None
        attended_NU = attended_NHD.flatten(1)
        of_read_PU = self.output.backward(_at(places_P, attended_NU), kept_output, [of_middle_PU])
        of_attended_NU = _from(places_P, of_read_PU, attended_NU)
        of_query, of_key, of_value = kernels.attend_gradients(
            self._heads(of_attended_NU), query_key_value, attended_NHD, state, rows, self.attention.scaling
        )
        of_query, of_key = kernels.rotate_back(of_query, of_key, rows)
        of_projected = [part.flatten(1) for part in (of_query, of_key, of_value)]
        of_normed_NU = self.query_key_value.backward(normed_NU, kept_qkv, of_projected, of_input)
        if not of_input:
            return None
        of_hidden_NU = _norm_gradient(of_normed_NU, hidden_NU, factor_N1, self.norms[0])
        return of_hidden_NU.add_(_from(places_P, of_middle_PU, hidden_NU))

    def _heads(self, tensor_NU: torch.Tensor) -> torch.Tensor:
        return tensor_NU.view(len(tensor_NU), -1, self.attention.head_dim)


def _at(places_P: torch.Tensor | None, rows_NU: torch.Tensor) -> torch.Tensor:
    return rows_NU if places_P is None else rows_NU.index_select(0, places_P)


def _from(places_P: torch.Tensor | None, gradient_PU: torch.Tensor, rows_NU: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the rows of which `_at` took some: zero at the others."""
    return gradient_PU if places_P is None else torch.zeros_like(rows_NU).index_copy_(0, places_P, gradient_PU)


def _norm(inputs_NU: torch.Tensor, module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return kernels.norm(inputs_NU, module.weight, module.variance_epsilon)


def _norm_gradient(
    gradient_NU: torch.Tensor, inputs_NU: torch.Tensor, factor_N1: torch.Tensor, module: Any
) -> torch.Tensor:
    return kernels.norm_gradient(gradient_NU, inputs_NU, factor_N1, module.weight, module.variance_epsilon)

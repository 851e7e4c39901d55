"""The parts of a decoder layer that are no matrix products, each with its gradient worked out by hand or by a kernel.

On a GPU they are torch's fused norm, its attention over packed sequences, and, where liger-kernel is installed, its
rotary positions and SwiGLU; elsewhere plain torch, whose gradients autograd finds by computing the part once more.

Shape letters: N tokens of all sequences, U units, H heads, D units of a head, B sequences, T tokens of the longest one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from medqa.errors import ModelError
from medqa.speedups import has_layer_kernels


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the tokens of a packed row stand."""

    cosines: Any
    """Of the rotary angles, (1, N, D); None where others have turned queries and keys."""
    sines: Any
    starts: torch.Tensor
    """Where each sequence starts and the last ends, (B + 1), int32."""
    longest: int
    """T."""
    look_back: Any = None
    """`medqa.beginnings.LookBack` where the sequences go on from beginnings that were computed before, or are such."""
    looked_on_K: torch.Tensor | None = None
    """Of the tokens there are, those that each sequence looks on, in turn; None: its own."""
    starts_looked_on: torch.Tensor | None = None
    """Where each sequence starts among these, and the last ends, (B + 1); None: as `starts`."""
    longest_looked_on: int = 0
    """Tokens of the longest sequence with its beginning; 0: T."""
    read_at_P: torch.Tensor | None = None
    """Places of the row, each once, after which alone the last layer's output is wanted; None: after all."""


def require_window(config: Any, longest: int) -> None:
    """Refuse sequences longer than the window over which a model's attention looks back, which is not done here.

    Raises:
        ModelError: when one is.
    """
    window = getattr(config, "sliding_window", None)
    if window is not None and window < longest:
        raise ModelError(
            f"the model's attention looks back over {window} tokens, and an example has {longest}: lower max_length"
        )


def rows_of(row: Mapping[str, Any], position_embeddings: Any = (None, None)) -> Rows:
    """Return what the arguments that a model got for a packed row say of it; see `medqa.packing.pack`."""
    looked_on_K = row.get("looked_on")
    cosines, sines = position_embeddings
    return Rows(
        cosines,
        sines,
        row["cu_seq_lens_q"],
        row["max_length_q"],
        row.get("look_back"),
        looked_on_K,
        None if looked_on_K is None else row["cu_seq_lens_k"],
        0 if looked_on_K is None else row["max_length_k"],
        row.get("read_at"),
    )


def norm(inputs_NU: torch.Tensor, weight_U: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the RMS norm and the factor of each token that its gradient needs; arXiv:1910.07467."""
    if inputs_NU.is_cuda:
        normed_NU, factor_N1 = torch.ops.aten._fused_rms_norm(inputs_NU, [len(weight_U)], weight_U, epsilon)
        return normed_NU, factor_N1
    return _norm(inputs_NU, weight_U, epsilon), inputs_NU.new_empty(0)


def norm_gradient(
    gradient_NU: torch.Tensor,
    inputs_NU: torch.Tensor,
    factor_N1: torch.Tensor,
    weight_U: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    """Return the gradient of the norm's input."""
    if inputs_NU.is_cuda:
        result: torch.Tensor = torch.ops.aten._fused_rms_norm_backward(
            gradient_NU, inputs_NU, [len(weight_U)], factor_N1, weight_U, [True, False]
        )[0]
        return result
    return _gradients(lambda inputs: _norm(inputs, weight_U, epsilon), [inputs_NU], gradient_NU)[0]


def _norm(inputs_NU: torch.Tensor, weight_U: torch.Tensor, epsilon: float) -> torch.Tensor:
    wide_NU = inputs_NU.float()
    normed_NU = wide_NU * torch.rsqrt(wide_NU.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight_U * normed_NU.to(inputs_NU.dtype)


def rotate(query_NHD: torch.Tensor, key_NHD: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both turned by their positions' angles, which may be in their own memory; arXiv:2104.09864."""
    if query_NHD.is_cuda and has_layer_kernels():
        from liger_kernel.ops.rope import rope_forward

        query, key, *_ = rope_forward(_for_liger(query_NHD), _for_liger(key_NHD), rows.cosines, rows.sines)
        return query[0].transpose(0, 1), key[0].transpose(0, 1)
    return _turn(query_NHD, rows, 1), _turn(key_NHD, rows, 1)


def rotate_back(query_NHD: torch.Tensor, key_NHD: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients before the rotation from those after it: turned by the negative angles."""
    if query_NHD.is_cuda and has_layer_kernels():
        from liger_kernel.ops.rope import rope_backward

        query, key, *_ = rope_backward(_for_liger(query_NHD), _for_liger(key_NHD), rows.cosines, rows.sines)
        return query[0].transpose(0, 1), key[0].transpose(0, 1)
    return _turn(query_NHD, rows, -1), _turn(key_NHD, rows, -1)


def _for_liger(tensor_NHD: torch.Tensor) -> torch.Tensor:
    return tensor_NHD.transpose(0, 1)[None]


def _turn(tensor_NHD: torch.Tensor, rows: Rows, sign: int) -> torch.Tensor:
    first, second = tensor_NHD.chunk(2, dim=-1)
    cosines, sines = rows.cosines[0, :, None], rows.sines[0, :, None]
    return tensor_NHD * cosines + sign * torch.cat((-second, first), dim=-1) * sines


def gated(gate_NU: torch.Tensor, up_NU: torch.Tensor) -> torch.Tensor:
    """Return SwiGLU's silu(gate) * up; arXiv:2002.05202."""
    if gate_NU.is_cuda and has_layer_kernels():
        from liger_kernel.ops.swiglu import swiglu_forward

        result: torch.Tensor = swiglu_forward(gate_NU, up_NU)[2]
        return result
    return functional.silu(gate_NU) * up_NU


def gated_gradients(
    gradient_NU: torch.Tensor, gate_NU: torch.Tensor, up_NU: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of gate and up, which may be in their memory."""
    if gate_NU.is_cuda and has_layer_kernels():
        from liger_kernel.ops.swiglu import swiglu_backward

        of_gate, of_up = swiglu_backward(gate_NU, up_NU, gradient_NU)
        return of_gate, of_up
    of_gate, of_up = _gradients(lambda gate, up: functional.silu(gate) * up, [gate_NU, up_NU], gradient_NU)
    return of_gate, of_up


def attend(
    query_NHD: torch.Tensor, key_NHD: torch.Tensor, value_NHD: torch.Tensor, rows: Rows, scaling: float, layer: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return causal attention within each sequence, (N, H, D), and what its gradient needs beside its inputs.

    There is no gradient for sequences that go on from beginnings that were computed before.
    """
    if rows.look_back is not None:
        key_NHD, value_NHD = rows.look_back.extend(layer, key_NHD, value_NHD)
    key_KHD, value_KHD = _looked_on(key_NHD, rows), _looked_on(value_NHD, rows)
    if not in_flash_kernel(query_NHD):
        return padded_attention(query_NHD, key_KHD, value_KHD, rows, scaling), []
    # the public varlen_attn of torch 2.10 and 2.11 refuses grouped heads, which this kernel of theirs takes
    attended_NHD, *state = torch.ops.aten._flash_attention_forward(
        query_NHD,
        key_KHD,
        value_KHD,
        *_bounds(rows),
        0.0,
        True,
        False,
        scale=scaling,
    )[:4]
    return attended_NHD, state


def attend_gradients(
    gradient_NHD: torch.Tensor,
    inputs: Sequence[torch.Tensor],
    attended_NHD: torch.Tensor,
    state: Sequence[torch.Tensor],
    rows: Rows,
    scaling: float,
) -> Sequence[torch.Tensor]:
    """Return the gradients of query, key and value."""
    query_NHD, key_NHD, value_NHD = inputs
    key_KHD, value_KHD = _looked_on(key_NHD, rows), _looked_on(value_NHD, rows)
    if not state:
        again = functools.partial(padded_attention, rows=rows, scaling=scaling)
        of_query, of_key, of_value = _gradients(again, [query_NHD, key_KHD, value_KHD], gradient_NHD)
    else:
        log_sums, random_state, unused = state
        of_query, of_key, of_value = torch.ops.aten._flash_attention_backward(
            gradient_NHD,
            query_NHD,
            key_KHD,
            value_KHD,
            attended_NHD,
            log_sums,
            *_bounds(rows),
            0.0,
            True,
            random_state,
            unused,
            scale=scaling,
        )
    tokens = len(query_NHD)
    return of_query, _of_looked_on(of_key, rows, tokens), _of_looked_on(of_value, rows, tokens)


def _bounds(rows: Rows) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """Return where the queries' and the keys' sequences start, and the longest length of each."""
    of_keys = rows.starts if rows.starts_looked_on is None else rows.starts_looked_on
    return rows.starts, of_keys, rows.longest, rows.longest_looked_on or rows.longest


def _looked_on(tensor_NHD: torch.Tensor, rows: Rows) -> torch.Tensor:
    return tensor_NHD if rows.looked_on_K is None else tensor_NHD.index_select(0, rows.looked_on_K)


def _of_looked_on(gradient_KHD: torch.Tensor, rows: Rows, tokens: int) -> torch.Tensor:
    """Return the gradient (N, H, D) of what `_looked_on` took from; a token that was taken often gets all its parts."""
    if rows.looked_on_K is None:
        return gradient_KHD
    # in fp32, since a sum in bf16 would be rounded at each part
    sums_NHD = gradient_KHD.new_zeros((tokens, *gradient_KHD.shape[1:]), dtype=torch.float32)
    return sums_NHD.index_add_(0, rows.looked_on_K, gradient_KHD.float()).to(gradient_KHD.dtype)


def in_flash_kernel(query_NHD: torch.Tensor) -> bool:
    """Whether torch's flash attention takes these tensors."""
    return query_NHD.is_cuda and query_NHD.dtype in (torch.bfloat16, torch.float16)


def padded_attention(
    query_NHD: torch.Tensor, key_NHD: torch.Tensor, value_NHD: torch.Tensor, rows: Rows, scaling: float
) -> torch.Tensor:
    """Pad on the right for the attention alone: a causal token never looks at what stands after it."""
    real_BT = _real(rows.starts, rows.longest)
    if rows.starts_looked_on is None:
        of_keys_BT, sees_B1TT = real_BT, None
    else:
        of_keys_BT = _real(rows.starts_looked_on, rows.longest_looked_on)
        before_B = rows.starts_looked_on.diff() - rows.starts.diff()
        tokens_T, looked_on_T = (torch.arange(real.shape[1], device=real.device) for real in (real_BT, of_keys_BT))
        sees_B1TT = (looked_on_T <= before_B[:, None, None] + tokens_T[:, None])[:, None]
    query_BHTD = _padded(query_NHD, real_BT)
    key_BHTD, value_BHTD = _padded(key_NHD, of_keys_BT), _padded(value_NHD, of_keys_BT)
    output_BHTD = functional.scaled_dot_product_attention(
        query_BHTD,
        key_BHTD,
        value_BHTD,
        attn_mask=sees_B1TT,
        is_causal=sees_B1TT is None,
        scale=scaling,
        enable_gqa=True,
    )
    return output_BHTD.transpose(1, 2)[real_BT]


def _real(starts: torch.Tensor, longest: int) -> torch.Tensor:
    """Return where padded rows (B, T) hold tokens."""
    return torch.arange(longest, device=starts.device) < starts.diff()[:, None]


def _padded(tensor_NHD: torch.Tensor, real_BT: torch.Tensor) -> torch.Tensor:
    zeros_BTHD = tensor_NHD.new_zeros((*real_BT.shape, *tensor_NHD.shape[1:]))
    return zeros_BTHD.index_put((real_BT,), tensor_NHD).transpose(1, 2)


def _gradients(
    function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], gradient: torch.Tensor
) -> Sequence[torch.Tensor]:
    """Compute `function` once more with autograd watching, and return its inputs' gradients."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        output = function(*leaves)
    result: Sequence[torch.Tensor] = torch.autograd.grad(output, leaves, gradient)
    return result

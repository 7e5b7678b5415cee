"""The float LLaMA one layer at a time, in NumPy: what a quantized one is measured against.

    x [n, d_model] --layer 0--> --layer 1--> ... --norm, head--> logits [n, n_vocab]

One layer's weights are in memory at a time, whatever the size of the model. Rows of all sequences
lie behind one another, so that every product is one large one; attention runs sequence by sequence.
A `Step` sees each group of matrices before it is used and says which weights to go on with: that is
how GPTQ's layers see what the quantized layers in front of them make.

Source: the LLaMA of transformers (modeling_llama.py) and LoRA as peft computes it, W x + s B (A x).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the arithmetic needs to know beside the weights."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    rope_theta: float
    rms_epsilon: float
    tied_head: bool


Step = Callable[[tuple[str, ...], tuple[F32, ...], F32], Sequence[F32]]
"""Names of matrices that share an input, the matrices [d_out, d_in], their input [n, d_in]; the
matrices to compute with."""


def as_they_are(names: tuple[str, ...], weights: tuple[F32, ...], x: F32) -> Sequence[F32]:
    """A `Step` that changes nothing."""
    return weights


class Llama:
    """A float LLaMA over weights that are read when a layer needs them."""

    def __init__(self, shape: Shape, weights: Mapping[str, F32], *, lora_scale: float) -> None:
        """Nothing is read yet.

        Args:
            shape: of the model.
            weights: by Hugging Face's names; an adapter's as `...q_proj.lora_A.weight`.
            lora_scale: what the adapter's output is multiplied by.
        """
        self.shape = shape
        self._weights = weights
        self._lora_scale = np.float32(lora_scale)

    def layer(self, i: int, x: F32, lengths: Sequence[int], step: Step = as_they_are) -> F32:
        """One layer over the rows [n, d_model] of sequences of these lengths."""
        at = f"model.layers.{i}"

        def chosen(x: F32, *names: str) -> Sequence[F32]:
            full = tuple(f"{at}.{name}.weight" for name in names)
            return step(full, tuple(self._weights[name] for name in full), x)

        normed = self._norm(f"{at}.input_layernorm", x)
        projections = [f"self_attn.{m}_proj" for m in "qkv"]
        q, k, v = (
            normed @ w.T + self._adapter(f"{at}.{name}", normed)
            for name, w in zip(projections, chosen(normed, *projections), strict=True)
        )
        attended = self._attention(q, k, v, lengths)
        (o,) = chosen(attended, "self_attn.o_proj")
        x = x + attended @ o.T
        normed = self._norm(f"{at}.post_attention_layernorm", x)
        gate, up = chosen(normed, "mlp.gate_proj", "mlp.up_proj")
        product = _silu(normed @ gate.T) * (normed @ up.T)
        (down,) = chosen(product, "mlp.down_proj")
        out: F32 = np.add(x, product @ down.T)
        return out

    def head(self, x: F32) -> F32:
        """Logits [n, n_vocab] of rows that came out of the last layer."""
        name = EMBEDDING if self.shape.tied_head else "lm_head.weight"
        logits: F32 = self._norm("model.norm", x) @ self._weights[name].T
        return logits

    def _norm(self, name: str, x: F32) -> F32:
        mean = np.mean(np.square(x), axis=1, keepdims=True, dtype=np.float32)
        scaled: F32 = np.divide(x, np.sqrt(mean + np.float32(self.shape.rms_epsilon)))
        return scaled * self._weights[f"{name}.weight"]

    def _adapter(self, name: str, x: F32) -> F32 | np.float32:
        a, b = (f"{name}.lora_{which}.weight" for which in "AB")
        if not self._lora_scale or a not in self._weights:
            return np.float32(0)
        inner: F32 = x @ self._weights[a].T * self._lora_scale
        return inner @ self._weights[b].T

    def _attention(self, q: F32, k: F32, v: F32, lengths: Sequence[int]) -> F32:
        s = self.shape
        made, start = [], 0
        for n in lengths:
            rows = slice(start, start + n)
            start += n
            q_h, k_h, v_h = (
                m[rows].reshape(n, -1, s.d_head).swapaxes(0, 1) for m in (q, k, v)
            )  # [n_heads, n, d_head]
            q_h, k_h = _rotated(q_h, s.rope_theta), _rotated(k_h, s.rope_theta)
            k_h, v_h = (np.repeat(m, s.n_heads // s.n_kv_heads, axis=0) for m in (k_h, v_h))
            scores = q_h @ k_h.swapaxes(1, 2) * np.float32(s.d_head**-0.5)
            scores += np.triu(np.full((n, n), -np.inf, np.float32), 1)
            scores -= scores.max(axis=2, keepdims=True)
            weights: F32 = np.exp(scores)
            weights /= weights.sum(axis=2, keepdims=True)
            made.append((weights @ v_h).swapaxes(0, 1).reshape(n, -1))
        return np.concatenate(made)


def _silu(x: F32) -> F32:
    made: F32 = np.divide(x, np.exp(-x) + np.float32(1))
    return made


def _rotated(heads: F32, theta: float) -> F32:
    """Rotary embedding of [n_heads, n, d_head], positions from 0; halves of a head are pairs."""
    _, n, d_head = heads.shape
    half = d_head // 2
    frequency = theta ** (-np.arange(half, dtype=np.float64) / half)
    angle = np.arange(n, dtype=np.float64)[:, None] * frequency
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    a, b = heads[..., :half], heads[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

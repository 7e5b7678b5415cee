"""Matrices whose columns are stored in another order than their input's channels.

GPTQ's act-order leaves groups that are scattered over the channels. Stored group by group, they are
blocks; the graph then gathers the input's channels in the same order once for all that share it:

    W x = W[:, order] x[order]        order int64 [d_in], one a layer for q|k|v, o, gate|up, down
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from kokanee.engine.errors import CheckpointError

from .fill import Changed, Tensor, as_floats
from .gptq_checkpoint import GptqWeights, shared_order

_GROUPS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}
_MATRIX = re.compile(r"(model\.layers\.\d+)\.((?:self_attn|mlp)\.\w+_proj)\.weight")
_ORDER = re.compile(r"(model\.layers\.\d+)\.(\w+)\.order")


def order_key(layer: str, group: str) -> str:
    """Name of the order of `qkv`, `o`, `gate_up` or `down` of `model.layers.0`."""
    return f"{layer}.{group}.order"


class Ordered(Mapping[str, Tensor]):
    """A GPTQ checkpoint's tensors with the orders of its matrices beside them."""

    def __init__(self, weights: GptqWeights, layers: Sequence[str]) -> None:
        """Find out whether there is any order.

        Args:
            weights: the checkpoint.
            layers: `model.layers.0` and so on.

        Raises:
            CheckpointError: matrices that share an input do not share an order.
        """
        self._weights = weights
        self._orders = {
            order_key(layer, group): self._order(layer, names)
            for layer in layers
            for group, names in _GROUPS.items()
        }
        self.scheme = weights.scheme
        config = weights.config
        self.says = (
            f"codes of a GPTQ checkpoint, taken over as they are: {config.bits} bits, groups of"
            f" {'a row' if config.group_size == -1 else config.group_size}"
        )
        self.act_order = any(order is not None for order in self._orders.values())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._orders or not self.act_order:
            return self._weights[name]
        order = self._orders[name]
        if order is None:
            layer, group = _ORDER.fullmatch(name).groups()  # type: ignore[union-attr] # made above
            order = np.arange(self._weights.shapes()[f"{layer}.{_GROUPS[group][0]}.weight"][1])
        # exact in float32: the widest LLaMA has 28672 channels
        return order.astype(np.float32)

    def __contains__(self, name: object) -> bool:
        """Without reading the tensor, as the inherited method would."""
        return name in self._weights or (self.act_order and name in self._orders)

    def __iter__(self) -> Iterator[str]:
        yield from self._weights
        if self.act_order:
            yield from self._orders

    def __len__(self) -> int:
        return len(self._weights) + (len(self._orders) if self.act_order else 0)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor; nothing is read."""
        shapes = dict(self._weights.shapes())
        for name in self._orders if self.act_order else ():
            layer, group = _ORDER.fullmatch(name).groups()  # type: ignore[union-attr] # made above
            shapes[name] = shapes[f"{layer}.{_GROUPS[group][0]}.weight"][1:]
        return shapes

    def _order(self, layer: str, names: Sequence[str]) -> npt.NDArray[np.int64] | None:
        full = [f"{layer}.{name}.weight" for name in names]
        missing = [name for name in full if name not in self._weights]
        if missing:
            raise CheckpointError(f"{self._weights.config.where}: missing {', '.join(missing)}")
        return shared_order(self._weights, full)


def in_order(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors as they would be without act-order: floats, columns back in their places."""

    def restored(name: str, value: Tensor) -> Tensor:
        matrix = _MATRIX.fullmatch(name)
        key = order_key(matrix[1], _GROUP_OF[matrix[2]]) if matrix else ""
        if key not in tensors:
            return value
        stored = as_floats(value)
        columns = np.empty_like(stored)
        columns[:, as_floats(tensors[key]).astype(np.int64)] = stored
        return columns

    return Changed(tensors, restored)

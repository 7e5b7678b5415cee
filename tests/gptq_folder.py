"""Writes a LLaMA folder as auto-gptq would, by the plainest loops there are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

F32 = npt.NDArray[np.float32]
GROUP = 32


def write_gptq(
    folder: Path, config: dict[str, object], weights: dict[str, F32], *, act_order: bool
) -> dict[str, F32]:
    """Write the folder; the weights that its codes stand for."""
    rng = np.random.default_rng(0)
    orders: dict[str, npt.NDArray[np.int64]] = {}
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    meant = dict(weights)
    for name, weight in weights.items():
        if not name.endswith("_proj.weight"):
            tensors[name] = weight.astype(np.float16)
            meant[name] = tensors[name].astype(np.float32)
            continue
        d_out, d_in = weight.shape
        layer, _, matrix = name.removesuffix("_proj.weight").rpartition(".")
        shared = f"{layer} {'qkv' if matrix in 'qkv' else 'gate' if matrix == 'up' else matrix}"
        channels = np.arange(d_in)
        order = orders.setdefault(shared, rng.permutation(channels) if act_order else channels)
        g_idx = np.empty(d_in, np.int32)
        g_idx[order] = channels // GROUP
        scales = np.empty((d_in // GROUP, d_out), np.float16)
        zeros = np.empty((d_in // GROUP, d_out), np.int64)
        codes = np.empty((d_in, d_out), np.int64)
        for g in range(d_in // GROUP):
            of_group = weight[:, g_idx == g]
            low, high = of_group.min(1), of_group.max(1)
            scales[g] = (high - low) / 15
            zeros[g] = np.clip(np.rint(-low / scales[g].astype(np.float32)), 1, 15)
        s, z = scales.astype(np.float32)[g_idx], zeros[g_idx]  # [d_in, d_out]
        codes = np.clip(np.rint(weight.T / s) + z, 0, 15).astype(np.int64)
        meant[name] = ((codes - z) * s).T.astype(np.float32)
        stem = name.removesuffix(".weight")
        tensors[f"{stem}.qweight"] = _words(codes)
        tensors[f"{stem}.qzeros"] = np.ascontiguousarray(_words((zeros - 1).T).T)
        tensors[f"{stem}.scales"] = scales
        tensors[f"{stem}.g_idx"] = g_idx
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"bits": 4, "group_size": GROUP, "desc_act": act_order, "sym": False}
    (folder / "quantize_config.json").write_text(json.dumps(settings))
    return meant


def _words(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Eight codes a word along the first axis, lowest bits first."""
    words = np.zeros((len(codes) // 8, codes.shape[1]), np.int64)
    for i in range(len(codes)):
        words[i // 8] |= codes[i] << (4 * (i % 8))
    return words.astype(np.uint32).view(np.int32)

"""A bundle -> the same model stored otherwise.

    bundle --bundle_weights: tensors by their checkpoint's names--> topologies for other packings
           --quantized: codes--> fill --quantized: cache, receipt--> bundle

What a bundle has lost stays lost.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from kokanee import __version__
from kokanee.engine import manifest as m
from kokanee.quant.schemes import LLM_SCHEMES, TIED_HEAD

from . import topologies
from .act_order import in_order
from .bundle import Description, Workspace, write_bundle
from .bundle_weights import BundleWeights
from .dims import Architecture
from .fill import Tensor
from .layout import TABLE, Layout
from .quantized import Exact, Treatment, finished, quantized, stamp
from .sources import Progress

EncoderQuant = Literal["none", "fp16", "int8"]

ENCODER_PACKINGS = {"none": "f32", "fp16": "f16", "int8": "int8_block128"}


def stored(
    sizes: Architecture, scheme_name: str, encoders: EncoderQuant | None, *, floats: str
) -> Architecture:
    """The same sizes in other packings.

    Args:
        sizes: of the model.
        scheme_name: of LLM_SCHEMES, or "none".
        encoders: how Whisper and BEATs are stored; None: as they are.
        floats: how an unquantized LLM is stored: "f32", or "f16".
    """
    scheme = LLM_SCHEMES.get(scheme_name)
    tied = sizes.llm.tied_head
    head = floats if scheme is None else scheme.head_packing
    changed = dataclasses.replace(
        sizes,
        llm_packing=floats if scheme is None else scheme.packing,
        # A tied head serves as the table too, which is looked up from 8-bit blocks.
        head_packing=TIED_HEAD if tied else head,
        table_packing=None if tied else floats if scheme is None else TIED_HEAD,
    )
    if encoders is None:
        return changed
    return dataclasses.replace(
        changed,
        encoder_packing=ENCODER_PACKINGS[encoders],
        # The Q-Former is small and last before the LLM: it is not quantized.
        connector_packing="f32" if encoders == "none" else "f16",
    )


def ingredients(what: Any, layouts: Mapping[str, Layout]) -> str:
    """A text that differs whenever the weight files would."""
    texts = [layout.to_json() for layout in layouts.values()]
    return json.dumps([__version__, m.FORMAT, what]) + "".join(texts)


def requantize(
    source: Path,
    out: Path,
    treatment: Treatment,
    encoders: EncoderQuant | None,
    *,
    progress: Progress,
    command: str,
) -> m.Manifest:
    """Store a bundle's model otherwise; an interrupted run goes on where it was.

    Args:
        source: the bundle; the more exact, the better: what it has lost stays lost.
        out: folder of the new one.
        treatment: of the LLM.
        encoders: how Whisper and BEATs are stored; None: as they are.
        progress: told what is done.
        command: what the manifest says made it.

    Raises:
        ManifestError: `source` is damaged, or of another version.
        CalibrationError: the calibration set is of no use.
        CacheError: no space, not writable, or another build is writing there.
        ValueError: source and out are one folder.
    """
    if source.resolve() == out.resolve():
        raise ValueError(f"{out}: expected another folder than the bundle's own")
    manifest = m.read_manifest(source)
    m.verify_files(source, manifest)
    before = Architecture.from_json(manifest.architecture)
    floats = "f16" if before.llm_packing == "f16" else "f32"
    after = stored(before, treatment.scheme, encoders, floats=floats)
    weights: dict[str, Mapping[str, Tensor]] = {
        name: BundleWeights(source, layout) for name, layout in topologies.layouts(before).items()
    }
    if before.llm.act_order:
        weights["llm"] = in_order(weights["llm"])
        after = dataclasses.replace(after, llm=dataclasses.replace(after.llm, act_order=False))
    exact = Exact(
        architecture=after,
        dims=manifest.dims,
        form=manifest.prompt,
        policy=manifest.policy,
        lora_scale=manifest.lora.scale,
        llm=weights["llm"],
        table=weights[TABLE if TABLE in weights else "llm"],
        encoders=None if after.encoder_packing == before.encoder_packing else lambda: source,
        soft_tokens=None if manifest.receipt is None else manifest.receipt.soft_tokens,
        says=f"{manifest.name}, its LLM's {before.llm_packing} weights computed in float32",
    )
    with Workspace(out, resumable=True) as space, tempfile.TemporaryDirectory() as scratch:
        topology = Path(scratch)
        layouts = topologies.save(after, topology, int8_cache=treatment.kv_cache == "int8")
        hashes = {name: file.sha256 for name, file in manifest.files.items()}
        space.take_over(ingredients([hashes, stamp(treatment)], layouts))
        return write_bundle(
            space,
            Description(
                name=manifest.name,
                command=command,
                dims=manifest.dims,
                front_end=manifest.front_end,
                policy=manifest.policy,
                prompt=manifest.prompt,
                lora=manifest.lora,
                sources=manifest.sources,
                parity={},
                quality={},
                architecture=after.to_json(),
            ),
            topology=topology,
            checkpoints={
                **weights,
                "llm": functools.partial(quantized, exact, treatment, progress=progress),
            },
            embedding="head.weight" if after.table_packing is None else "table",
            tokenizer=(source / manifest.tokenizer).read_text(encoding="utf-8"),
            progress=progress,
            finish=functools.partial(finished, exact, treatment, topology, progress=progress),
        )

"""The float16 graphs for CUDA: on the CPU against the float32 ones, on a GPU where there is one.

ONNX Runtime's CPU has no float16 kernel for some operators and computes those in float32 between
casts, so this holds the graphs' structure and range, and the rounding of what lies between.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from kokanee.engine import Engine, read_manifest
from kokanee.engine.decoder import Decoder
from kokanee.engine.embedding import Embedding
from kokanee.engine.onnx import open_graph
from kokanee.export.prompts import TASKS
from kokanee.export.salmonn import Options, Parts, build_salmonn

F32 = npt.NDArray[np.float32]
GOLDEN = Path(__file__).parents[1] / "golden" / "salmonn"
SIZES = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96}
QUANTS: dict[str, dict[str, Any]] = {
    "floats": {"llm_quant": "none", "encoder_quant": "none"},
    "halves": {"llm_quant": "none", "encoder_quant": "fp16"},
    "int8": {"llm_quant": "int8", "encoder_quant": "int8"},
    "int4": {"llm_quant": "int4", "encoder_quant": "int8"},
}
CUDA = "CUDAExecutionProvider"


@pytest.fixture(scope="module", params=list(QUANTS))
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param) / "bundle"
    model = GOLDEN / "model"
    build_salmonn(
        out,
        Parts(
            salmonn=model / "salmonn.pth",
            whisper=model / "whisper",
            beats=model / "beats.pt",
            llm=model / "llama",
        ),
        Options(qformer=SIZES, tasks=TASKS, **QUANTS[request.param]),
        progress=lambda *_: None,
        warn=pytest.fail,
        command="pytest",
    )
    return out


def encoded(bundle: Path, suffix: str, providers: dict[str, Any]) -> dict[str, F32]:
    """Every array of the three graphs in front of the LLM, for a golden clip."""
    with np.load(GOLDEN / "vectors" / "stereo4p0.npz") as golden:
        feeds = {"log_mel": golden["logmel"][None], "fbank": golden["beats_fbank"][None]}
    speech_encoder, audio_encoder, connector = (
        open_graph(bundle / f"{name}{suffix}.onnx", **providers)
        for name in ("speech_encoder", "audio_encoder", "connector")
    )
    (speech,) = speech_encoder.run(None, {"log_mel": feeds["log_mel"]})
    (audio,) = audio_encoder.run(None, {"fbank": feeds["fbank"]})
    (soft,) = connector.run(["soft_tokens"], {"speech": speech, "audio": audio})
    return {"speech": speech, "audio": audio, "soft_tokens": soft}


def decoded(bundle: Path, suffix: str, embeds: F32, **where: Any) -> F32:
    """Logits behind every position of a prompt and behind eight more tokens."""
    manifest = read_manifest(bundle)
    dims = manifest.dims
    embedding = Embedding(bundle, manifest.embedding, n_vocab=dims.n_vocab, d_model=dims.d_model)
    on_cuda = where.get("device") == "cuda"
    graph = open_graph(bundle / f"llm{suffix}.onnx", **where)
    decoder = Decoder(graph, embedding, dims, n_ctx=160, lora_scale=4.0, on_cuda=on_cuda)
    logits = [*decoder.all_logits(embeds)]
    logits += [decoder.step(token).copy() for token in (20, 426, 505, 330, 488, 65, 295, 117)]
    return np.stack(logits)


def relative(got: F32, want: F32) -> float:
    assert got.dtype == want.dtype == np.float32
    assert got.shape == want.shape
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def test_half_encoders_stay_near_the_float_ones(bundle: Path) -> None:
    want, got = (encoded(bundle, suffix, {"device": "cpu"}) for suffix in ("", ".f16"))
    for name, array in want.items():
        assert relative(got[name], array) < (0.02 if "int" in bundle.parent.name else 5e-3), name


def test_a_half_llm_stays_near_the_float_one(bundle: Path) -> None:
    with np.load(GOLDEN / "vectors" / "stereo4p0.npz") as golden:
        embeds = golden["inputs_embeds"]
    want, got = (decoded(bundle, suffix, embeds, device="cpu") for suffix in ("", ".f16"))
    assert relative(got, want) < 0.02
    assert np.mean(got.argmax(1) == want.argmax(1)) > 0.95


def test_a_half_cache_takes_half_the_memory(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    dims = manifest.dims
    embedding = Embedding(bundle, manifest.embedding, n_vocab=dims.n_vocab, d_model=dims.d_model)
    sizes = [
        Decoder(
            open_graph(bundle / f"llm{suffix}.onnx", device="cpu"),
            embedding,
            dims,
            n_ctx=100,
            lora_scale=4.0,
        ).cache.n_bytes
        for suffix in ("", ".f16")
    ]
    assert sizes[0] == 2 * sizes[1] == 100 * 2 * 4 * dims.n_layers * dims.n_kv_heads * dims.d_head


# --- on a GPU ------------------------------------------------------------------------------------


@pytest.fixture
def gpu(bundle: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if CUDA in onnxruntime.get_available_providers():
        session = onnxruntime.InferenceSession(
            bundle / "connector.f16.onnx", options, providers=[CUDA]
        )
        if CUDA in session.get_providers():
            return
    pytest.skip("no CUDA device")


@pytest.mark.cuda
@pytest.mark.usefixtures("gpu")
def test_the_gpu_computes_what_the_cpu_does(bundle: Path) -> None:
    want = encoded(bundle, "", {"device": "cpu"})
    got = encoded(bundle, ".f16", {"device": "cuda"})
    for name, array in want.items():
        assert relative(got[name], array) < 1e-2, name
    with np.load(GOLDEN / "vectors" / "stereo4p0.npz") as golden:
        embeds = golden["inputs_embeds"]
    on_gpu = decoded(bundle, ".f16", embeds, device="cuda")
    assert relative(on_gpu, decoded(bundle, "", embeds, device="cpu")) < 0.1


@pytest.mark.cuda
@pytest.mark.usefixtures("gpu")
def test_nothing_falls_back_to_the_cpu(bundle: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for graph in read_manifest(bundle).graphs.values():
        assert graph.half is not None
        onnxruntime.InferenceSession(bundle / graph.half, options, providers=[CUDA])


@pytest.mark.cuda
@pytest.mark.usefixtures("gpu")
def test_the_engine_answers_on_the_gpu(bundle: Path) -> None:
    pcm = np.zeros(16_000, np.float32)
    with Engine.open(bundle, device="cuda") as engine, engine.session() as session:
        session.hear(pcm)
        assert session.ask(task="asr", max_new_tokens=4).all_ids()

"""Every graph in front of the LLM against PyTorch and against the official code's vectors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from kokanee.export.audio_encoder import audio_encoder, buckets_by_distance
from kokanee.export.connector import connector
from kokanee.export.dims import BeatsDims, QFormerDims, WhisperDims
from kokanee.export.fill import fill
from kokanee.export.graph import Graph
from kokanee.export.parity import check_parity
from kokanee.export.reference import BEATs, Connector, WhisperEncoder, relative_buckets
from kokanee.export.speech_encoder import speech_encoder

GOLDEN = Path(__file__).parents[1] / "golden" / "salmonn"
MODEL = GOLDEN / "model"
CLIPS = sorted(p.stem for p in (GOLDEN / "vectors").glob("s*.npz"))
TOLERANCE = 2e-4  # of the golden README, for encoder outputs and soft tokens


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.float().numpy() for name, tensor in state.items()}


def open_filled(
    graph: Graph, checkpoint: dict[str, np.ndarray], folder: Path
) -> ort.InferenceSession:
    graph.save(folder)
    fill(graph.layout(), checkpoint, folder / graph.layout().file)
    return ort.InferenceSession(str(folder / f"{graph.name}.onnx"))


@pytest.fixture(scope="module")
def whisper_dims() -> WhisperDims:
    config = json.loads((MODEL / "whisper" / "config.json").read_text())
    return WhisperDims(**{f.name: config[f.name] for f in dataclasses.fields(WhisperDims)})


@pytest.fixture(scope="module")
def beats_dims() -> BeatsDims:
    cfg = load(MODEL / "beats.pt")["cfg"]
    names = {f.name for f in dataclasses.fields(BeatsDims)}
    return BeatsDims(**{k: v for k, v in cfg.items() if k in names})


@pytest.fixture(scope="module")
def qformer_dims() -> QFormerDims:
    sizes = json.loads((MODEL / "qformer_bert_overrides.json").read_text())
    return QFormerDims(d_speech=64, d_audio=64, d_model=64, **sizes)


@pytest.fixture(scope="module")
def sessions(
    whisper_dims: WhisperDims,
    beats_dims: BeatsDims,
    qformer_dims: QFormerDims,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, ort.InferenceSession]:
    folder = tmp_path_factory.mktemp("graphs")
    built = [
        (speech_encoder(whisper_dims), load(MODEL / "whisper" / "pytorch_model.bin")),
        (audio_encoder(beats_dims), load(MODEL / "beats.pt")["model"]),
        (connector(qformer_dims), load(MODEL / "salmonn.pth")["model"]),
    ]
    return {g.name: open_filled(g, arrays(state), folder) for g, state in built}


@pytest.mark.parametrize("clip", CLIPS)
def test_graphs_give_what_the_official_code_gave(
    clip: str, sessions: dict[str, ort.InferenceSession]
) -> None:
    golden = np.load(GOLDEN / "vectors" / f"{clip}.npz")
    (speech,) = sessions["speech_encoder"].run(None, {"log_mel": golden["logmel"][None]})
    (audio,) = sessions["audio_encoder"].run(None, {"fbank": golden["beats_fbank"][None]})
    soft, qformer_out = sessions["connector"].run(
        ["soft_tokens", "qformer_out"], {"speech": speech, "audio": audio}
    )
    got = {
        "whisper_out": speech[0],
        "beats_out": audio[0],
        "qformer_out": qformer_out[:, 0],
        "speech_tokens": soft[0],
    }
    want = {name: golden[name] for name in got}
    check_parity("encoders", got, want, tolerance=TOLERANCE, against="bytedance/SALMONN")


@pytest.mark.parametrize("n_mel_frames", [34, 100, 1002, 3000])
def test_the_speech_encoder_takes_any_length(
    n_mel_frames: int, whisper_dims: WhisperDims, sessions: dict[str, ort.InferenceSession]
) -> None:
    reference = WhisperEncoder(whisper_dims)
    state = load(MODEL / "whisper" / "pytorch_model.bin")
    prefix = "model.encoder."
    reference.load_state_dict(
        {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}
    )
    mel = np.random.default_rng(0).normal(size=(1, 80, n_mel_frames)).astype(np.float32)
    with torch.no_grad():
        want = reference(torch.from_numpy(mel)).numpy()
    (got,) = sessions["speech_encoder"].run(None, {"log_mel": mel})
    check_parity("speech", {"y": got}, {"y": want}, tolerance=TOLERANCE, against="PyTorch")


# 8, 48, 128, 136, 384, 1496 patches: one block of queries, full or not, and several, padded or not.
@pytest.mark.parametrize("n_frames", [16, 98, 256, 272, 777, 2998])
def test_the_audio_encoder_takes_any_length(
    n_frames: int, beats_dims: BeatsDims, sessions: dict[str, ort.InferenceSession]
) -> None:
    reference = BEATs(beats_dims)
    missing, unexpected = reference.load_state_dict(load(MODEL / "beats.pt")["model"], strict=False)
    assert missing == []
    assert all("predictor" in k or "relative_attention_bias" in k for k in unexpected)
    fbank = np.random.default_rng(1).normal(size=(1, n_frames, 128)).astype(np.float32)
    with torch.no_grad():
        want = reference(torch.from_numpy(fbank)).numpy()
    (got,) = sessions["audio_encoder"].run(None, {"fbank": fbank})
    assert got.shape[1] == 8 * (n_frames // 16)
    check_parity("audio", {"y": got}, {"y": want}, tolerance=TOLERANCE, against="PyTorch")


@pytest.mark.parametrize(("size", "stride", "n_queries"), [(17, 17, 2), (17, 8, 1), (5, 7, 3)])
@pytest.mark.parametrize(("n_speech", "n_audio"), [(51, 48), (51, 56), (60, 0)])
def test_the_connector_takes_any_window_and_either_side_shorter(
    size: int, stride: int, n_queries: int, n_speech: int, n_audio: int, tmp_path: Path
) -> None:
    dims = QFormerDims(
        d_speech=24,
        d_audio=8,
        d_model=20,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        n_queries=n_queries,
        window_frames=size,
        stride_frames=stride,
    )
    torch.manual_seed(0)
    reference = Connector(dims)
    session = open_filled(connector(dims), arrays(dict(reference.state_dict())), tmp_path)
    speech, audio = torch.randn(1, n_speech, 24), torch.randn(1, n_audio, 8)
    with torch.no_grad():
        want = reference(speech, audio).numpy()
    (got,) = session.run(["soft_tokens"], {"speech": speech.numpy(), "audio": audio.numpy()})
    check_parity("connector", {"y": got}, {"y": want}, tolerance=TOLERANCE, against="PyTorch")


def test_buckets_by_distance_are_the_official_ones() -> None:
    golden = np.load(GOLDEN / "vectors" / "_beats_buckets.npz")
    table = buckets_by_distance(num_buckets=320, max_distance=800)
    np.testing.assert_array_equal(
        table[np.clip(golden["offset"], -800, 800) + 800], golden["bucket"]
    )
    # The reference module computes them its own way; key minus query runs along its rows.
    square = relative_buckets(1601, num_buckets=320, max_distance=800)
    np.testing.assert_array_equal(square[800].numpy(), table)


@pytest.mark.parametrize("packing", ["f16", "int8_block32"])
def test_packed_encoders_stay_near_the_float_ones(
    packing: str,
    whisper_dims: WhisperDims,
    sessions: dict[str, ort.InferenceSession],
    tmp_path: Path,
) -> None:
    graph = speech_encoder(whisper_dims, packing=packing)
    packed = open_filled(graph, arrays(load(MODEL / "whisper" / "pytorch_model.bin")), tmp_path)
    feeds = {"log_mel": np.load(GOLDEN / "vectors" / "s1p0.npz")["logmel"][None]}
    (want,), (got,) = (s.run(None, feeds) for s in (sessions["speech_encoder"], packed))
    noise = float(np.square(got - want).sum() / np.square(want).sum())
    assert noise < {"f16": 1e-6, "int8_block32": 1e-3}[packing]

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from kokanee.engine.errors import CheckpointError
from kokanee.export.ct2 import WhisperEncoderWeights, read_ct2

RNG = np.random.default_rng(0)
D = 4
Variables = dict[str, npt.NDArray[np.float16]]


def encoder(n_layers: int) -> Variables:
    names = {"conv1/weight": (D, 80, 3), "conv2/weight": (D, D, 3), "conv1/bias": (D,)}
    names |= {"conv2/bias": (D,), "position_encodings/encodings": (10, D)}
    norms = ["layer_norm"]
    for i in range(n_layers):
        attention, ffn = f"layer_{i}/self_attention", f"layer_{i}/ffn"
        names |= {
            f"{attention}/linear_0/weight": (3 * D, D),
            f"{attention}/linear_0/bias": (3 * D,),
        }
        names |= {f"{attention}/linear_1/weight": (D, D), f"{attention}/linear_1/bias": (D,)}
        names |= {f"{ffn}/linear_0/weight": (2 * D, D), f"{ffn}/linear_0/bias": (2 * D,)}
        names |= {f"{ffn}/linear_1/weight": (D, 2 * D), f"{ffn}/linear_1/bias": (D,)}
        norms += [f"{attention}/layer_norm", f"{ffn}/layer_norm"]
    names |= {f"{norm}/{part}": (D,) for norm in norms for part in ("gamma", "beta")}
    return {f"encoder/{n}": RNG.normal(size=s).astype("<f2") for n, s in names.items()}


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def ct2(variables: Variables, *, spec: str = "WhisperSpec", version: int = 6) -> bytes:
    data = struct.pack("<I", version) + string(spec) + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        data += string(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        data += struct.pack("<BI", 4, array.nbytes) + array.tobytes()
    return data + struct.pack("<I", 1) + string("alias") + string(next(iter(variables)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


def test_encoder_tensors_get_hugging_faces_names(path: Path) -> None:
    variables = encoder(2)
    path.write_bytes(ct2(variables))
    weights = WhisperEncoderWeights(path)
    assert len(weights) == 7 + 2 * 15
    fused = variables["encoder/layer_1/self_attention/linear_0/weight"].astype(np.float32)
    for i, letter in enumerate("qkv"):
        got = weights[f"model.encoder.layers.1.self_attn.{letter}_proj.weight"]
        np.testing.assert_array_equal(got, fused[i * D : (i + 1) * D])
    assert "model.encoder.layers.1.self_attn.k_proj.bias" not in weights
    bias = variables["encoder/layer_0/self_attention/linear_0/bias"]
    got = weights["model.encoder.layers.0.self_attn.v_proj.bias"]
    np.testing.assert_array_equal(got, bias[2 * D :].astype(np.float32))
    gamma = variables["encoder/layer_0/ffn/layer_norm/gamma"]
    got = weights["model.encoder.layers.0.final_layer_norm.weight"]
    np.testing.assert_array_equal(got, gamma.astype(np.float32))
    assert got.dtype == np.float32


def test_aliases_are_followed(path: Path) -> None:
    path.write_bytes(ct2(encoder(0)))
    variables = read_ct2(path)
    assert variables["alias"] is variables["encoder/conv1/weight"]


def test_a_missing_variable_is_named(path: Path) -> None:
    variables = encoder(1)
    del variables["encoder/layer_0/ffn/linear_1/bias"]
    path.write_bytes(ct2(variables))
    with pytest.raises(CheckpointError, match="no variable encoder/layer_0/ffn/linear_1/bias"):
        WhisperEncoderWeights(path)


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    whole = ct2(encoder(1))
    for n in range(0, len(whole), 97):
        path.write_bytes(whole[:n])
        with pytest.raises(CheckpointError):
            read_ct2(path)


def test_what_follows_the_model_is_refused(path: Path) -> None:
    path.write_bytes(ct2(encoder(0)) + b"x")
    with pytest.raises(CheckpointError, match="1 bytes too many"):
        read_ct2(path)


def test_other_files_are_refused(path: Path) -> None:
    for data, message in (
        (ct2(encoder(0), spec="TransformerSpec"), "expected a Whisper model"),
        (ct2(encoder(0), version=5), "not a CTranslate2 model of version 6"),
        (b"Nothing of the kind.", "not a CTranslate2 model"),
        (b"", "empty"),
    ):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            read_ct2(path)

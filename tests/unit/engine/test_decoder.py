from pathlib import Path

import numpy as np
import pytest

from kokanee.engine import Engine
from kokanee.engine.decoder import CHUNK, Decoder
from kokanee.engine.embedding import Embedding
from kokanee.engine.errors import ContextFull, ManifestError
from kokanee.engine.manifest import read_manifest
from kokanee.engine.onnx import Binding, open_graph


@pytest.fixture
def decoder(tiny: Path) -> Decoder:
    manifest = read_manifest(tiny)
    dims = manifest.dims
    embedding = Embedding(tiny, manifest.embedding, n_vocab=dims.n_vocab, d_model=dims.d_model)
    graph = open_graph(tiny / manifest.graphs["llm"].file, device="cpu", threads=1)
    return Decoder(graph, embedding, dims, n_ctx=CHUNK + 20, lora_scale=4.0)


def test_a_step_is_a_prefill_of_one(decoder: Decoder) -> None:
    first = decoder.step(7).copy()
    decoder.cache.trim(0)
    np.testing.assert_array_equal(decoder.prefill(decoder.embed((7,))), first)
    assert decoder.cache.length == 1


def test_a_long_prefill_goes_in_chunks(decoder: Decoder) -> None:
    embeds = decoder.embed([i % 200 for i in range(CHUNK + 10)])
    decoder.prefill(embeds[:CHUNK])
    want = decoder.prefill(embeds[CHUNK:]).copy()
    decoder.cache.trim(0)
    np.testing.assert_array_equal(decoder.prefill(embeds), want)
    assert decoder.cache.length == CHUNK + 10


def test_what_does_not_fit_changes_nothing(decoder: Decoder) -> None:
    decoder.prefill(decoder.embed((1, 2, 3)))
    with pytest.raises(ContextFull):
        decoder.prefill(decoder.embed([0] * decoder.cache.n_ctx))
    assert decoder.cache.length == 3
    decoder.cache.append(decoder.cache.room)
    with pytest.raises(ContextFull):
        decoder.step(1)


def test_embeddings_of_another_width_are_refused(decoder: Decoder) -> None:
    for shape in ((3, 10), (0, 64), (64,)):
        with pytest.raises(ValueError, match=r"expected shape \(n_new, 64\)"):
            decoder.prefill(np.zeros(shape, np.float32))


def test_logits_are_a_buffer_that_the_next_call_overwrites(decoder: Decoder) -> None:
    first = decoder.step(7)
    assert np.shares_memory(first, decoder.step(8))
    assert first.shape == (260,)


def test_two_decoders_share_a_graph_and_no_state(tiny_engine: Engine) -> None:
    one, other = tiny_engine._decoder(16, 4.0), tiny_engine._decoder(16, 4.0)
    alone = one.step(5).copy()
    one.cache.trim(0)
    other.prefill(other.embed((1, 2, 3)))
    np.testing.assert_array_equal(one.step(5), alone)
    assert (one.cache.length, other.cache.length) == (1, 3)


def test_the_adapters_scale_is_a_run_time_input(tiny_engine: Engine) -> None:
    off, on = (tiny_engine._decoder(16, scale).step(5).copy() for scale in (0.0, 4.0))
    assert np.abs(off - on).max() > 1e-3


def test_a_closed_decoder_says_so(decoder: Decoder) -> None:
    decoder.close()
    with pytest.raises(ValueError, match="closed"):
        decoder.step(1)


def test_a_broken_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(ManifestError, match=r"bad\.onnx"):
        open_graph(tmp_path / "bad.onnx", device="cpu")


def test_only_contiguous_arrays_are_bound(tiny: Path) -> None:
    binding = Binding(open_graph(tiny / "llm.onnx", device="cpu", threads=1))
    with pytest.raises(ValueError, match="contiguous"):
        binding.input("inputs_embeds", np.zeros((1, 4, 64), np.float32)[:, ::2])

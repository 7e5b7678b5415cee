"""Predictions are sums that can be done by hand, ordered, and true to the bundles' own bytes."""

import itertools
import json
import statistics
from pathlib import Path

import pytest

from kokanee.benchmarks import hops, live_fullsize, predict, roofline
from kokanee.benchmarks.planning import configure
from kokanee.benchmarks.replay import (
    Costs,
    Mark,
    Pace,
    Turn,
    about,
    costs,
    follow,
    interpolated,
    plain_turn,
)
from kokanee.benchmarks.roofline import (
    Device,
    Efficiency,
    Model,
    Range,
    Stage,
    Work,
    bytes_per_weight,
    gpu_efficiency,
    n_patches,
    n_windows,
    published_shares,
    read_devices,
    seconds,
)
from kokanee.engine import EXACT, FAST
from kokanee.engine.encoders import STAGES
from kokanee.engine.manifest import Policy
from kokanee.export.dims import BeatsDims, LlamaConfig, QFormerDims, WhisperDims
from kokanee.runtime.vad import EnergyVAD

TOY = Device(
    name="toy", memory_gb=1, bandwidth_gb_s=10, tflops=0.001, source="made up", unpacks=False
)
GPU = gpu_efficiency()
ALL = Efficiency(compute=(1, 1), bandwidth=(1, 1))
LLM = LlamaConfig(
    d_model=4,
    n_layers=1,
    n_heads=2,
    n_kv_heads=1,
    d_head=2,
    d_ffn=3,
    n_vocab=5,
    n_positions=16,
    rope_theta=1e4,
    rms_epsilon=1e-6,
    tied_head=False,
    lora_rank=0,
)
POLICY = Policy(
    min_s=1,
    max_s=29.92,
    pad_to_s=None,
    long_audio="segment",
    window_frames=17,
    stride_frames=17,
    n_queries=1,
)


def flat(encode: float, prefill: float = 0.0, question: float = 0.0) -> Costs:
    """The same whatever the length."""
    return Costs(
        encode=((1.0, encode), (30.0, encode)),
        prefill=((1.0, prefill), (100.0, prefill)),
        question=question,
        step=0.0,
    )


def per_second(encode: float) -> Costs:
    """In proportion to the sound."""
    return Costs(
        encode=((0.001, 0.001 * encode), (30.0, 30 * encode)),
        prefill=((1.0, 0.0),),
        question=0.0,
        step=0.0,
    )


# --- stages ---------------------------------------------------------------------------------------


def test_a_toy_whisper_by_hand() -> None:
    dims = WhisperDims(d_model=2, encoder_layers=1, encoder_attention_heads=1, encoder_ffn_dim=3)
    stage = roofline.speech_encoder(dims, 4, "f32")
    layer = 4 * 2 * 2 + 2 * 2 * 3
    first, second = 3 * 80 * 2, 3 * 2 * 2  # convolutions, the first over twice as many frames
    assert stage.work.flops == 2 * 4 * layer + 4 * 4 * 4 * 2 + 2 * 8 * first + 2 * 4 * second
    assert stage.work.bytes == 4 * (layer + first + second + 4 * 2)


def test_a_toy_beats_by_hand() -> None:
    dims = BeatsDims(
        embed_dim=2,
        encoder_embed_dim=4,
        encoder_layers=1,
        encoder_attention_heads=1,
        encoder_ffn_embed_dim=3,
        conv_pos=2,
        conv_pos_groups=2,
    )
    assert n_patches(1.0, dims) == 98 // 16 * 8 == 48
    n, layer, others = 48, 4 * 16 + 2 * 4 * 3, 256 * 2 + 2 * 4 + 2 * 4 * 2
    stage = roofline.audio_encoder(dims, 1.0, "f32")
    assert stage.work.flops == 2 * n * (layer + others) + 4 * n * n * 4
    assert stage.work.bytes == 4 * (layer + others)


def test_a_toy_qformer_by_hand() -> None:
    dims = QFormerDims(
        d_speech=2, d_audio=1, d_model=5, hidden_size=4, intermediate_size=6, num_hidden_layers=1
    )
    itself = 2 * 4 * 16 + 4 * 4
    across = 2 * 2 * 16 + 2 * 17 * 2 * 4 * 3 + 4 * 17 * 4
    behind = 2 * 2 * 4 * 6 + 2 * 4 * 5
    assert roofline.connector(dims, 3, "f16").work == Work(
        flops=3 * (itself + across + behind), bytes=2 * (6 * 16 + 2 * 4 * 3 + 2 * 4 * 6 + 4 * 5)
    )


def test_a_toy_llm_by_hand() -> None:
    """Three positions behind two: all of them into keys and values, one of them any further."""
    stage = roofline.llm(LLM, n_new=3, n_past=2, packing="f32", head_packing="f32", cache_bytes=4)
    qkv, o, ffn, head = 4 * (4 + 2 + 2), 4 * 4, 3 * 4 * 3, 4 * 5
    assert stage.work.flops == 2 * 3 * qkv + 2 * (o + ffn + head) + 4 * 3 * 5 * 4
    assert stage.work.bytes == 4 * (qkv + o + ffn + head) + 2 * (2 + 2 * 3) * 2 * 4
    assert stage.name == "prefill"
    step = roofline.llm(LLM, n_new=1, n_past=2, packing="f32", head_packing="f32", cache_bytes=4)
    assert (step.name, step.n_unpacked) == ("decode", 0)


@pytest.mark.parametrize(
    ("packing", "n_bytes"),
    [
        ("f32", 4),
        ("f16", 2),
        ("int8_block128", 1 + 4 / 128),
        ("int4_block128", 0.5 + 4 / 128),
        ("int4_zeros_block32", 0.5 + 4 / 32 + 4 / 32 / 8),
        ("int4_offset_block32", 0.5 + 8 / 32),
    ],
)
def test_bytes_of_a_weight(packing: str, n_bytes: float) -> None:
    assert bytes_per_weight(packing) == n_bytes


def test_windows_are_the_engines() -> None:
    dims = QFormerDims(d_speech=1, d_audio=1, d_model=1)
    assert [n_windows(s, dims) for s in (0.1, 0.34, 0.35, 5.44, 29.92, 30.0)] == [
        1,
        1,
        2,
        16,
        88,
        89,
    ]


def test_full_size_bytes_are_those_of_a_bundle() -> None:
    """Of files that were built: what lies in them beside matrices is small."""
    results = predict.RESULTS / "fullsize_7b_block128.json"
    files = json.loads(results.read_text("utf-8"))["budget"]["weights_mb"]
    model = Model(name="7b", sizes=configure("7b").sizes, cache_bytes=4)
    stages = (*model.encoding(29.92), model.prefill(1))
    for stage in stages:
        name = "llm" if stage.name == "decode" else stage.name
        assert stage.work.bytes / 1e6 == pytest.approx(files[name], rel=0.01), name


# --- devices --------------------------------------------------------------------------------------


def test_the_slower_of_arithmetic_and_traffic_decides() -> None:
    half = Efficiency(compute=(0.5, 0.5), bandwidth=(0.5, 0.5), launch_us=(0, 1000))
    much = Stage(name="x", work=Work(flops=1e9, bytes=1), n_nodes=3)
    far = Stage(name="x", work=Work(flops=1, bytes=1e10), n_nodes=0)
    assert seconds(much, TOY, ALL) == Range(best=1, worst=1)
    assert seconds(much, TOY, half) == Range(best=2, worst=2 + 3e-3)
    # At best launches run ahead of the work, unless they are all there is.
    small = Stage(name="x", work=Work(flops=1, bytes=1), n_nodes=3)
    slow = Efficiency(compute=(1, 1), bandwidth=(1, 1), launch_us=(500, 1000))
    assert seconds(small, TOY, slow).best == pytest.approx(1.5e-3)
    assert seconds(far, TOY, half) == Range(best=2, worst=2)


def test_a_device_that_unpacks_moves_halves_as_well() -> None:
    stage = Stage(name="x", work=Work(flops=0, bytes=1e9), n_nodes=0, n_unpacked=1e9)
    gpu = Device(name="gpu", memory_gb=1, bandwidth_gb_s=5, tflops=1, source="made up")
    assert seconds(stage, gpu, ALL).best == 1


def test_shares_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="least, most"):
        Efficiency(compute=(0.5, 0.4), bandwidth=(0.6, 0.8))
    with pytest.raises(ValueError, match="least, most"):
        Efficiency(compute=(0, 0.4), bandwidth=(0.6, 0.8))


def test_shares_are_those_that_follow_from_the_published_rates() -> None:
    """By hand: llama.cpp's 7B on an RTX 4090, and ONNX Runtime's Phi-2 there."""
    shares = published_shares()
    pull = "https://github.com/ggml-org/llama.cpp/pull/4766"
    here = [s for s in shares if (s.device, s.source) == ("RTX 4090", pull)]
    # 13.214 GB x 61.03 /s of 1008 GB/s; 2 x 6.607e9 x 11048 /s of 2 x 165.2 TFLOPS
    assert {round(s.share, 4) for s in here if s.model.endswith("F16")} == {0.8001, 0.4419}
    (own,) = (s for s in shares if s.software.startswith("onnxruntime"))
    # (1.49 + 4 x 2.65) GB in 128 / 9259.9 s of 1008 GB/s
    assert own.share == pytest.approx(0.8677, abs=1e-4)
    for of, most in (("compute", GPU.compute), ("bandwidth", GPU.bandwidth)):
        those = [s.share for s in shares if s.of == of]
        assert most == (min(those), max(those))
        assert 0.2 < min(those) <= max(those) < 1
    # 1 / 219.8 s less 1.49 GB at 0.8677 of 1008 GB/s, over 13 x 32 + 7 nodes
    assert GPU.launch_us[1] == pytest.approx((4549.6 - 1703.6) / 423, abs=0.01)


def test_every_share_has_a_source_and_a_card_of_the_table() -> None:
    names = {device.name for device in read_devices()}
    for share in published_shares():
        assert share.device in names
        assert share.source.startswith("https://")


def test_every_prediction_is_a_range_in_order() -> None:
    for size in predict.SIZES:
        model = Model(name=size, sizes=configure(size).sizes, cache_bytes=2)
        for device in read_devices():
            for stage in (*model.encoding(5.0), model.prefill(20), model.prefill(1)):
                took = seconds(stage, device, GPU)
                assert 0 < took.best < took.worst


def test_more_of_anything_is_no_slower_and_more_to_do_is_no_faster() -> None:
    small, large = (Model(name=s, sizes=configure(s).sizes, cache_bytes=2) for s in predict.SIZES)
    device = read_devices()[0]
    for stage in (*large.encoding(5.0), large.prefill(20), large.prefill(1)):
        faster = Device(name="", memory_gb=1, bandwidth_gb_s=2e4, tflops=2e4, source="")
        assert seconds(stage, faster, GPU).worst <= seconds(stage, device, GPU).worst
    assert small.prefill(20).work.flops < large.prefill(20).work.flops
    assert small.prefill(1, 10).work.bytes < small.prefill(1, 1000).work.bytes
    flops = [sum(s.work.flops for s in small.encoding(x)) for x in (1.0, 2.0, 5.0, 20.0)]
    assert flops == sorted(flops)


def test_the_table_of_devices_is_its_vendors_arithmetic() -> None:
    """Where a white paper prints the figure, and where it is worked out, it is the same formula."""
    table = json.loads(roofline.DEVICES.read_text("utf-8"))["devices"]
    assert len({row["name"] for row in table}) == len(table) == len(read_devices())
    for row in table:
        product = row["cuda_cores"] / 128 * 512 * row["boost_ghz"] / 1e3
        assert row["tflops"] == pytest.approx(product, rel=0.005), row["name"]
        assert row["tflops_from"] in ("published", "derived")
        assert ".nvidia.com/" in row["source"]


def test_the_table_lies_beside_the_module() -> None:
    assert Path(roofline.__file__).with_name("devices.json").is_file()


# --- a turn ---------------------------------------------------------------------------------------


def test_between_points_of_a_table() -> None:
    table = ((1.0, 10.0), (2.0, 20.0), (4.0, 30.0))
    assert [interpolated(table, x) for x in (0.5, 1, 1.5, 3, 4, 6)] == [10, 10, 15, 25, 30, 40]
    assert interpolated(((2.0, 10.0),), 4) == 20
    with pytest.raises(ValueError, match="at least one"):
        interpolated((), 1)


def test_work_that_takes_no_time_is_hidden() -> None:
    for mode in (FAST, EXACT):
        made = follow(plain_turn(5), flat(0), Pace.of(mode))
        assert made.compute_s == 0
        assert made.first_token_s == made.wait_s == pytest.approx(0.532)


def test_exact_mode_begins_when_the_pause_is_found() -> None:
    made = follow(plain_turn(5), flat(1, 0.25, 0.5), Pace.of(EXACT))
    assert made.first_token_s == pytest.approx(0.232 + 1.75, abs=1e-6)
    assert made.compute_s == pytest.approx(0.232 + 1.75 - 0.532, abs=1e-6)
    assert made.final_s == pytest.approx(1.75)


def test_fast_mode_encodes_the_last_piece_only() -> None:
    cost = per_second(0.1)
    fast, exact = (follow(plain_turn(20), cost, Pace.of(mode)) for mode in (FAST, EXACT))
    assert exact.final_s == pytest.approx(0.1 * 20.5)
    assert fast.final_s <= 0.1 * 5.6
    assert fast.first_token_s < exact.first_token_s


def test_hops_come_as_often_as_they_can_be_paid_for() -> None:
    quick, slow = (follow(plain_turn(20), flat(x), Pace.of(FAST)) for x in (0.01, 1.0))
    assert quick.hop_s == pytest.approx(0.5, abs=0.05)
    assert slow.hop_s > 1.5  # 2, but for those that find nothing to encode behind a cut
    assert slow.busy < 0.75


def test_a_hop_in_flight_holds_up_the_last_pass() -> None:
    """At worst it began just before the voice ended."""
    ends = about(3, flat(1), Pace.of(FAST))
    assert ends.best == pytest.approx(0.232 + 1)
    assert ends.worst - ends.best > 0.3
    assert ends.worst <= 2 + 0.1


def test_a_pause_that_was_none_costs_a_guess() -> None:
    turn = Turn(
        marks=(
            Mark(at_s=2.0, what="quiet"),
            Mark(at_s=2.2, what="pause", until_s=2.2),
            Mark(at_s=2.3, what="resume"),
            Mark(at_s=4.0, what="quiet"),
            Mark(at_s=4.2, what="pause", until_s=4.2),
            Mark(at_s=4.5, what="end", until_s=4.2),
        ),
        offset_s=4.0,
    )
    assert follow(turn, flat(0.05), Pace.of(EXACT)).n_guesses == 2
    # One that takes longer than the rest of the turn delays the answer.
    late = follow(turn, flat(3), Pace.of(EXACT))
    assert late.first_token_s == pytest.approx(2.2 + 3 + 3 - 4.0)


def test_predicted_costs_grow_with_the_sound() -> None:
    model = Model(name="7b", sizes=configure("7b").sizes, cache_bytes=2)
    best, worst = (
        costs(model, read_devices()[0], GPU, end=end, n_question=20) for end in roofline.ENDS
    )
    for made in (best, worst):
        assert [y for _, y in made.encode] == sorted(y for _, y in made.encode)
        assert made.step < made.question
    assert best.question < worst.question


def test_a_faster_device_answers_no_later() -> None:
    slow, quick = (d for d in read_devices() if d.name in ("RTX 3060 12GB", "RTX 5090"))
    rows = predict.predictions([slow, quick], n_question=20, rewritten=2, features=0.005)
    assert all(row["PREDICTED"] for row in rows)
    for a, b in ((rows[0], rows[1]), (rows[2], rows[3])):
        assert a["model"] == b["model"]
        for name in ("exact_5s_ms", "exact_20s_ms", "fast_20s_ms"):
            assert b[name][0] <= a[name][0]
            assert b[name][1] <= a[name][1]
            assert a[name][0] <= a[name][1]


# --- what is measured -----------------------------------------------------------------------------


def a_sample(ms: float, *, n_computed: int, n_new: int) -> hops.Sample:
    """One hop that took so long in every stage, and its end."""
    spent = dict.fromkeys((*STAGES, "prefill_audio"), ms)
    return {
        "hops": [
            {
                "until_s": 0.5,
                "filled_s": [],
                "grown_s": [0.34],
                "extend": 1.0,
                "appended": dict.fromkeys(spent, 0.0),
                "caught_up": spent,
                "wall": 6 * ms,
                "n_computed": n_computed,
                "n_new": n_new,
            }
        ],
        "settle": {"grown_s": [0.68], "spent": spent, "n_soft_tokens": 4, "n_before": 2},
        "ask": {"prefill_question": 9.0, "first_token": 10.0, "step": 3.0},
    }


def test_the_least_and_the_median_of_what_was_measured() -> None:
    samples = [a_sample(ms, n_computed=3, n_new=1) for ms in (1.0, 2.0, 6.0)]
    least, median = (hops.stages(samples, of) for of in (min, statistics.median))
    assert least.costs().encode == ((0.34, 0.004), (0.68, 0.004))
    assert median.costs().encode == ((0.34, 0.008), (0.68, 0.008))
    # What settling computed is not known where something was in the cache before.
    assert (least.prefill, median.prefill) == ({3: 1.0}, {3: 2.0})
    assert least.costs().features == 0.002


def test_windows_that_a_hop_prefills_again_are_those_that_are_not_new() -> None:
    samples = [a_sample(1.0, n_computed=n, n_new=2) for n in (2, 6)]
    assert hops.rewritten(samples, n_queries=2) == 1


def test_what_was_measured_once_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    assert live_fullsize.Kept(path).get("a", lambda: {"x": 1}) == {"x": 1}
    again = live_fullsize.Kept(path)
    assert again.get("a", lambda: {"x": 2}) == {"x": 1}
    assert list(again.load) == ["a"]


def test_pieces_are_cut_where_the_engine_cuts_them() -> None:
    pcm = hops.voice(20)
    assert len(pcm) == 20 * 16_000
    ends = hops.cuts(pcm, POLICY, FAST)
    lengths = [b - a for a, b in itertools.pairwise((0.0, *ends))]
    assert len(ends) >= 3
    assert all(2.72 <= length <= 5.45 for length in lengths)
    assert hops.cuts(pcm, POLICY, EXACT) == ()


def test_a_voice_is_heard_as_one_turn_with_its_end_at_the_end() -> None:
    sound = hops.in_silence(hops.voice(2))
    turn = hops.heard(sound, POLICY, FAST, EnergyVAD())
    assert [mark.what for mark in turn.marks][-1] == "end"
    assert turn.offset_s == pytest.approx(0.3 + 2, abs=0.25)
    assert 0.5 <= turn.marks[-1].at_s - turn.offset_s <= 0.56

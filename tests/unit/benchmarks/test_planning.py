"""What fits is a sum of bytes; what does not is changed as little as possible."""

import dataclasses
import json
from pathlib import Path

import pytest

from kokanee.benchmarks import forecast, plan_operations, planning
from kokanee.benchmarks.forecast import on_card, on_processor, total, worst_factor
from kokanee.benchmarks.planning import (
    Configuration,
    Place,
    PlanError,
    budget,
    configure,
    find_device,
    nearest,
    needed,
    smallest_device,
    stored,
    weights,
)
from kokanee.benchmarks.profile import RECORDED, read
from kokanee.benchmarks.roofline import gpu_efficiency
from kokanee.engine import read_manifest
from kokanee.export import requantize
from kokanee.export.audio_encoder import QUERY_BLOCK
from kokanee.quant.schemes import LLM_SCHEMES

RESULTS = RECORDED.parent


def place(gb: float) -> Place:
    """A processor with so much memory for the model."""
    return Place(name="toy", memory_bytes=(gb + planning.SYSTEM_GB) * 1e9)


def in_mb(c: Configuration, *, on_gpu: bool = False) -> dict[str, float]:
    """The parts of a budget."""
    return {part.name: part.n_bytes / 1e6 for part in budget(c, on_gpu=on_gpu)}


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.artefact
def test_nanos_parts_are_its_files(nano: Path) -> None:
    files = read_manifest(nano).files
    parts = weights(configure("nano"))
    assert parts == {name: files[f"{name}.bin"].n_bytes for name in planning.PARTS}
    assert parts == weights(configure(str(nano)))


def test_a_bundles_parts_are_its_files(tiny: Path) -> None:
    files = read_manifest(tiny).files
    c = configure(str(tiny))
    assert weights(c) == {
        n.removesuffix(".bin"): f.n_bytes for n, f in files.items() if ".bin" in n
    }
    # Stored otherwise, they are worked out.
    assert weights(configure(str(tiny), encoder_quant="none")) != weights(c)


def test_full_size_parts_are_those_of_bundles_that_were_built() -> None:
    for name, size, quant in (
        ("fullsize_7b_block128", "7B", "int4_block128"),
        ("fullsize_7b", "7B", "int4"),
        ("fullsize_13b", "13B", "int4"),
    ):
        taken = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
        made = weights(configure(size, llm_quant=quant))
        for part, mb in taken["budget"]["weights_mb"].items():
            assert made[part] / 1e6 == pytest.approx(mb, rel=0.01), (name, part)
        # The rest of such a bundle is its embedding table, and graphs of a few MB.
        assert sum(made.values()) / 1e6 == pytest.approx(taken["bundle_mb"], rel=0.01)


def test_activations_cover_what_was_measured() -> None:
    for name, size in (("fullsize_7b_block128", "7B"), ("fullsize_13b", "13B")):
        taken = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
        assert in_mb(configure(size))["activations"] >= taken["budget"]["activations_mb"]


def test_a_cache_by_hand() -> None:
    # Keys and values of 32 layers, 32 heads of 128 numbers, 2048 positions.
    numbers = 2 * 32 * 32 * 128 * 2048
    assert in_mb(configure("7b"))["kv_cache"] == numbers / 1e6
    assert in_mb(configure("7b", kv_cache="float32"))["kv_cache"] == 4 * numbers / 1e6
    on_gpu = configure("7b", on_gpu=True)
    assert in_mb(on_gpu, on_gpu=True)["kv_cache"] == 2 * numbers / 1e6


def test_halves_become_floats_on_a_processor_and_floats_halves_on_a_gpu() -> None:
    files = weights(configure("nano"))
    assert in_mb(configure("nano"))["speech_encoder"] == 2 * files["speech_encoder"] / 1e6
    c = configure("7b", encoder_quant="none", on_gpu=True)
    assert in_mb(c, on_gpu=True)["speech_encoder"] == weights(c)["speech_encoder"] / 2e6


def test_the_embedding_table_takes_no_memory() -> None:
    parts = budget(configure("7b", on_gpu=True), on_gpu=True)
    (table,) = (part for part in parts if part.name == "embedding_table")
    assert (table.where, table.n_bytes) == ("mapped", 32_000 * 4096 * (1 + 4 / 32))
    assert needed(parts) == sum(p.n_bytes for p in parts if p.where == "card")
    assert not any(p.name == "embedding_table" for p in budget(configure("nano"), on_gpu=False))


@pytest.mark.parametrize("llm_quant", ["none", *LLM_SCHEMES])
@pytest.mark.parametrize("encoder_quant", ["none", "fp16", "int8"])
def test_it_is_stored_as_the_product_stores_it(llm_quant: str, encoder_quant: str) -> None:
    for model in planning.MODELS:
        sizes = configure(model).sizes
        made = requantize.stored(sizes, llm_quant, encoder_quant, floats="f16")  # type: ignore[arg-type]  # parametrized with its own names
        assert stored(sizes, llm_quant, encoder_quant) == made


# --- what is asked --------------------------------------------------------------------------------


def test_defaults_follow_the_model_and_the_device() -> None:
    assert configure("7B").to_json() == {
        "model": "7b",
        "llm_quant": "int4_block128",
        "encoder_quant": "int8",
        "kv_cache": "int8",
        "n_ctx": 2048,
    }
    assert configure("13B", on_gpu=True).kv_cache == "float16"
    assert configure("13B", llm_quant="none").kv_cache == "float32"
    assert configure("Nano").llm_quant == "int4_offset_block32"


def test_what_does_not_exist_is_an_error_that_says_what_does(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="nano, 7B, 13B or the folder"):
        configure("30B")
    with pytest.raises(PlanError, match="nano, 7B, 13B or the folder"):
        configure(str(tmp_path))
    with pytest.raises(PlanError, match="64 to 2048"):
        configure("13B", n_ctx=4096)
    with pytest.raises(PlanError, match="float16 on a GPU"):
        configure("7B", kv_cache="int8", on_gpu=True)
    with pytest.raises(PlanError, match="float32 or int8 on a processor"):
        configure("7B", kv_cache="float16")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("RTX 4070", "RTX 4070"),
        ("rtx4070", "RTX 4070"),
        ("NVIDIA GeForce RTX 4070 Ti Super", "RTX 4070 Ti SUPER"),
        ("RTX 3060", "RTX 3060 12GB"),
    ],
)
def test_a_card_is_found_by_what_people_call_it(said: str, name: str) -> None:
    assert find_device(said).name == name


def test_an_unknown_card_is_answered_with_near_ones() -> None:
    with pytest.raises(PlanError, match=r"RTX 4075.*near:.*RTX 4070"):
        find_device("RTX 4075")


# --- what would fit -------------------------------------------------------------------------------


def test_a_smaller_context_is_tried_first() -> None:
    c = configure("7B", kv_cache="float32")
    full = needed(budget(c, on_gpu=False)) / 1e9
    made = nearest(c, place(full - 0.1))
    assert made is not None
    assert made.changed == ("a context of 1024 positions in place of 2048",)
    assert dataclasses.replace(c, n_ctx=1024) == made.configuration


def test_then_an_int8_cache_a_tighter_scheme_and_a_smaller_model() -> None:
    c = configure("7B", kv_cache="float32", n_ctx=512)
    made = nearest(c, place(needed(budget(c, on_gpu=False)) / 1e9 - 0.1))
    assert made is not None
    assert made.changed == ("an int8 cache",)
    c = configure("7B", llm_quant="int8", n_ctx=512)
    made = nearest(c, place(needed(budget(c, on_gpu=False)) / 1e9 - 0.1))
    assert made is not None
    assert made.changed == ("the language model as int4_block128 in place of int8",)
    made = nearest(configure("13B"), place(6))
    assert made is not None
    assert made.configuration.model == "7b"
    made = nearest(configure("13B"), place(1))
    assert made is not None
    assert made.configuration.model == "nano"
    assert nearest(configure("13B"), place(0.2)) is None


@pytest.mark.parametrize("model", ["nano", "7B", "13B"])
@pytest.mark.parametrize("gb", [0.5, 2, 5, 8, 12, 20])
def test_what_is_suggested_fits_and_its_command_says_the_same(model: str, gb: float) -> None:
    there = place(gb)
    c = configure(model, llm_quant="int8", encoder_quant="none", kv_cache="float32")
    made = nearest(c, there)
    if made is None:
        assert gb == 0.5
        return
    assert there.fits(made.configuration)
    words = made.options.split()
    assert words[:2] == ["kokanee", "plan"]
    assert str(made.configuration.n_ctx) in words


def test_a_bundles_suggestion_names_its_folder(tiny: Path) -> None:
    c = configure(str(tiny), n_ctx=128)
    made = nearest(c, place(0.01))
    assert made is None or str(tiny) in made.options or made.configuration.model == "nano"


def test_the_smallest_card_that_holds_it() -> None:
    c = configure("13B", llm_quant="int8", on_gpu=True)
    card = smallest_device(c)
    assert card is not None
    assert card.memory_gb == 24
    assert not Place.card(find_device("RTX 4080")).fits(c)
    huge = dataclasses.replace(c.sizes.llm, n_layers=400)
    assert (
        smallest_device(dataclasses.replace(c, sizes=dataclasses.replace(c.sizes, llm=huge)))
        is None
    )


def test_where_the_memory_is_unknown_so_is_whether_it_fits() -> None:
    assert Place(name="toy", memory_bytes=None).fits(configure("7B")) is None


# --- speed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", planning.MODELS)
def test_every_time_is_a_range_in_order(model: str) -> None:
    profile = read(RECORDED)
    card = find_device("RTX 4070")
    for speed in (
        on_processor(configure(model), profile),
        on_card(configure(model, on_gpu=True), card, gpu_efficiency(), 1e-3),
    ):
        alone = [speed.prefill_audio, speed.question, speed.step_short, speed.step_full]
        alone += [total(stages) for stages in speed.encode.values()]
        for took in (*alone, *speed.first_token.values(), *speed.offline.values()):
            assert 0 < took.best <= took.worst
        assert speed.step_short.best <= speed.step_full.best
        short, long = speed.encode.values()
        assert total(short).worst < total(long).worst
        assert speed.n_audio == 8 + 88 * configure(model).sizes.connector.n_queries


def test_a_processors_range_is_the_factor_that_was_found() -> None:
    checked = json.loads(forecast.CHECKED.read_text("utf-8"))
    ratios = [
        stage["predicted_to_measured"]
        for model in checked["models"].values()
        for stage in model["stages"].values()
    ]
    assert worst_factor() == pytest.approx(max(max(r, 1 / r) for r in ratios))
    step = on_processor(configure("7B"), read(RECORDED)).step_short
    assert step.worst / step.best == pytest.approx(worst_factor() ** 2)


def test_a_stage_is_the_sum_of_its_operators() -> None:
    profile = read(RECORDED)
    made = plan_operations.prefill(configure("7B").sizes, 1, 150, cache="int8")
    parts = plan_operations.by_op(made, profile)
    assert sum(parts.values()) == pytest.approx(plan_operations.seconds(made, profile))
    assert max(parts, key=parts.__getitem__) == "product int4_block128"


def test_numbers_that_are_written_twice_are_the_same() -> None:
    """What export/ and the records say, repeated where they cannot be imported."""
    live = json.loads((RESULTS / "live_7b.json").read_text("utf-8"))
    assert plan_operations.QUERY_BLOCK == QUERY_BLOCK
    assert configure("7B").n_question == live["n_question"]
    assert live["windows_prefilled_again_by_a_hop"]["simulated"] == forecast.REWRITTEN

"""Samples to text through the public API, on a random bundle."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tiny import POLICY, tiny_bundle

from kokanee.engine import (
    AudioFormatError,
    BeamSearch,
    ContextFull,
    Engine,
    ManifestError,
    Sampling,
    SessionClosed,
    read_audio,
)
from kokanee.runtime.demo import RECORDINGS
from kokanee.runtime.phrases import transcribe

QUESTION = "What do you hear?"


def noise(seconds: float, seed: int = 0) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.normal(size=round(seconds * 16_000))).astype(np.float32)


def test_the_same_sound_and_question_give_the_same_answer(tiny_engine: Engine) -> None:
    ids = []
    for _ in range(2):
        with tiny_engine.session(n_ctx=256) as session:
            heard = session.hear(noise(2.0))
            ids.append(session.ask(QUESTION, max_new_tokens=12).all_ids())
    assert heard.n_soft_tokens == 2 * 6  # 2 s are 5.9 windows of 0.34 s
    assert len(ids[0]) > 0
    assert ids[0] == ids[1]


def test_asking_rewinds_to_the_sound(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=256) as session:
        session.hear(noise(1.5))
        first = session.ask(QUESTION, max_new_tokens=8)
        text = first.text()
        used = session.n_used
        session.ask("And something else, at length?", max_new_tokens=20).text()
        again = session.ask(QUESTION, max_new_tokens=8)
        assert again.text() == text
        assert again.ids == first.ids
        assert session.n_used == used


def test_another_sound_takes_the_place_of_the_first(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=256) as fresh, tiny_engine.session(n_ctx=256) as used:
        used.hear(noise(3.0, seed=1))
        used.ask(QUESTION, max_new_tokens=8).text()
        used.hear(noise(1.5))
        fresh.hear(noise(1.5))
        asked = [s.ask(QUESTION, max_new_tokens=8) for s in (fresh, used)]
        assert asked[0].text() == asked[1].text()
        assert asked[0].ids == asked[1].ids


def test_an_answer_is_lazy_and_replays(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=256) as session:
        session.hear(noise(1.0))
        answer = session.ask(QUESTION, max_new_tokens=10)
        assert answer.ids == []
        pieces = list(answer)
        assert list(answer) == pieces
        assert "".join(pieces) == answer.text()
        assert answer.finish_reason in ("stop", "length")
        assert {"prefill_question", "first_token"} <= answer.timings_ms.keys()


def test_cancel_stops_after_the_token_in_flight(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=256) as session:
        session.hear(noise(1.0))
        answer = session.ask(QUESTION, max_new_tokens=100)
        pieces = iter(answer)
        next(pieces)
        n_said = len(answer.ids)
        canceller = threading.Thread(target=answer.cancel)
        canceller.start()
        canceller.join()
        list(pieces)
        assert answer.finish_reason == "cancelled"
        assert len(answer.ids) == n_said
        assert session.ask(QUESTION, max_new_tokens=3).all_ids()


def test_a_new_question_ends_the_answer_before_it(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=256) as session:
        session.hear(noise(1.0))
        first = session.ask(QUESTION, max_new_tokens=100)
        next(iter(first))
        n_said = len(first.ids)
        second = session.ask(QUESTION, max_new_tokens=5)
        second.text()
        assert first.text() is not None
        assert (first.finish_reason, len(first.ids)) == ("cancelled", n_said)


def test_sampling_with_a_seed_repeats(tiny_engine: Engine) -> None:
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=7)
    with tiny_engine.session(n_ctx=256) as session:
        session.hear(noise(1.0))
        ids = session.ask(QUESTION, sampling=sampling, max_new_tokens=12).all_ids()
        assert session.ask(QUESTION, sampling=sampling, max_new_tokens=12).all_ids() == ids
        other = Sampling(temperature=1.0, top_p=0.9, seed=8)
        assert session.ask(QUESTION, sampling=other, max_new_tokens=12).all_ids() != ids


def test_a_bundle_can_forbid_repeats_and_a_question_allow_them(
    tiny: Path, tiny_engine: Engine, tmp_path: Path
) -> None:
    def ids(engine: Engine, sampling: Sampling | BeamSearch | None = None) -> list[int]:
        with engine.session(n_ctx=256) as session:
            session.hear(noise(1.0))
            return session.ask(QUESTION, sampling=sampling, max_new_tokens=60).all_ids()

    def repeats(ids: list[int]) -> bool:
        pairs = list(itertools.pairwise(ids))
        return len(set(pairs)) < len(pairs)

    folder = shutil.copytree(tiny, tmp_path / "tiny")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["prompt"]["no_repeat_ngram_size"] = 2
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with Engine.open(folder, device="cpu", threads=1) as engine:
        plain = ids(tiny_engine)
        assert repeats(plain)
        assert not repeats(ids(engine))
        assert not repeats(ids(engine, BeamSearch(n_beams=2)))
        assert ids(engine, Sampling(no_repeat_ngram_size=0)) == plain
        assert ids(tiny_engine, Sampling(no_repeat_ngram_size=2)) == ids(engine)


def test_a_bundle_says_how_transcripts_are_searched_for(
    tiny: Path, tiny_engine: Engine, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["prompt"] |= {"transcript_beams": 3, "length_penalty": -1.0}
    manifest["prompt"]["eos_ids"] = list(range(3, 300, 9))  # so that texts of many lengths end
    (folder / "manifest.json").write_text(json.dumps(manifest))
    pcm = read_audio(RECORDINGS / "speech.wav").pcm
    with tiny_engine.session(n_ctx=256) as session:
        assert session.transcript_search == Sampling()
    with Engine.open(folder, device="cpu", threads=1) as engine, engine.session() as session:
        assert session.transcript_search == BeamSearch(n_beams=3)
        (phrase,) = transcribe(session, pcm, question=QUESTION)

        def text(search: BeamSearch | None) -> str:
            (only,) = transcribe(session, pcm, question=QUESTION, sampling=search)
            return only.text

        # The bundle's own choices, unless others are asked for.
        assert phrase.text == text(BeamSearch(n_beams=3, length_penalty=-1.0))
        assert phrase.text != text(BeamSearch(n_beams=3, length_penalty=3.0))


def test_the_adapter_can_be_switched_off(tiny_engine: Engine) -> None:
    def ids(scale: float | None) -> list[int]:
        with tiny_engine.session(n_ctx=256, lora_scale=scale) as session:
            session.hear(noise(1.0))
            return session.ask(QUESTION, max_new_tokens=12).all_ids()

    assert ids(None) == ids(4.0)
    assert ids(0.0) != ids(None)


def test_tasks_and_raw_prompts(tiny_engine: Engine) -> None:
    template = tiny_engine.manifest.prompt.template
    with tiny_engine.session(n_ctx=256) as session:
        session.hear(noise(1.0))
        want = session.ask("Write down what is said.", max_new_tokens=8).all_ids()
        assert session.ask(task="asr", max_new_tokens=8).all_ids() == want
        raw = template.replace("{}", "Write down what is said.")
        assert session.ask(raw_prompt=raw, max_new_tokens=8).all_ids() == want
        # A template with text before the sound moves the sound, and back again.
        moved = session.ask(raw_prompt="before <SpeechHere> after", max_new_tokens=8).all_ids()
        assert moved != want
        assert session.ask(task="asr", max_new_tokens=8).all_ids() == want
        assert session.ask(raw_prompt="ends with <SpeechHere>", max_new_tokens=8).all_ids()
        with pytest.raises(ValueError, match="exactly once"):
            session.ask(raw_prompt="no sound in here")
        with pytest.raises(ValueError, match="expected one of"):
            session.ask(task="juggle")


def test_a_full_context_is_said_before_anything_is_generated(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=40) as session:
        with pytest.raises(ContextFull, match="the audio needs"):
            session.hear(noise(8.0))
        session.hear(noise(1.0))
        with pytest.raises(ContextFull, match="the question needs"):
            session.ask("x" * 100)


def test_an_answer_ends_where_the_context_ends(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=80) as session:
        session.hear(noise(1.0))
        answer = session.ask("Why?", max_new_tokens=200)
        answer.text()
        assert answer.finish_reason in ("context", "stop")
        assert session.n_used <= 80


def test_kv_bytes_are_two_floats_a_position_and_width(tiny_engine: Engine) -> None:
    dims = tiny_engine.manifest.dims
    with tiny_engine.session(n_ctx=100) as session:
        assert session.kv_bytes == 2 * 4 * dims.n_layers * dims.n_kv_heads * dims.d_head * 100


def test_long_audio_is_heard_in_pieces(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=512) as session:
        heard = session.hear(noise(40.0))
        assert heard.n_segments == 2
        assert heard.n_soft_tokens == 2 * (88 + 30)
        assert "40.0 s" in heard.notes[0]


def test_official_policy_cuts_and_pads_to_thirty_seconds(tmp_path: Path) -> None:
    policy = type(POLICY)(
        min_s=1.0,
        max_s=30.0,
        pad_to_s=30.0,
        long_audio="cut",
        window_frames=17,
        stride_frames=17,
        n_queries=2,
    )
    tiny_bundle(tmp_path / "padded", policy=policy)
    with Engine.open(tmp_path / "padded", device="cpu") as engine, engine.session() as session:
        for seconds in (0.2, 7.0, 37.0):
            heard = session.hear(noise(seconds))
            assert (heard.n_segments, heard.n_soft_tokens) == (1, 2 * 88)


def test_misuse_is_named(tiny_engine: Engine, tmp_path: Path) -> None:
    session = tiny_engine.session(n_ctx=64)
    with pytest.raises(ValueError, match="nothing was heard"):
        session.ask(QUESTION)
    with pytest.raises(AudioFormatError, match="n_samples > 0"):
        session.hear(np.zeros(0, np.float32))
    with pytest.raises(AudioFormatError, match="float32"):
        session.hear(np.zeros((2, 16_000), np.float32))
    session.close()
    session.close()
    with pytest.raises(SessionClosed):
        session.hear(noise(1.0))
    with pytest.raises(ValueError, match="n_ctx"):
        tiny_engine.session(n_ctx=100_000)
    with pytest.raises(ManifestError, match="not a bundle"):
        Engine.open(tmp_path)


def test_a_closed_engine_opens_no_session_but_open_ones_go_on(tiny: Path) -> None:
    engine = Engine.open(tiny, device="cpu")
    session = engine.session(n_ctx=128)
    engine.close()
    with pytest.raises(SessionClosed):
        engine.session()
    session.hear(noise(1.0))
    assert session.ask(QUESTION, max_new_tokens=3).all_ids()


def test_sessions_in_threads_do_not_disturb_each_other(tiny_engine: Engine) -> None:
    def ids(seed: int) -> list[int]:
        with tiny_engine.session(n_ctx=256) as session:
            session.hear(noise(1.0, seed))
            return session.ask(QUESTION, max_new_tokens=10).all_ids()

    alone = [ids(seed) for seed in range(4)]
    together: list[list[int]] = [[] for _ in alone]

    def work(seed: int) -> None:
        together[seed] = ids(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_trace_holds_every_array_and_agrees_with_the_answer(tiny_engine: Engine) -> None:
    pcm = noise(2.0)
    raw = tiny_engine.manifest.prompt.template.replace("{}", QUESTION)
    arrays = tiny_engine.trace(pcm, raw, max_new_tokens=6)
    dims = tiny_engine.manifest.dims
    n_prompt = len(arrays["ids_before"]) + 12 + len(arrays["ids_after"])
    assert arrays["logmel"].shape == (80, 6 * 34)
    assert arrays["whisper_out"].shape == (6 * 17, dims.d_speech)
    assert arrays["speech_tokens"].shape == (12, dims.d_model)
    assert arrays["qformer_out"].shape == (12, dims.d_qformer)
    assert arrays["prefill_logits"].shape == (n_prompt, dims.n_vocab)
    assert arrays["inputs_embeds"].shape == (n_prompt, dims.d_model)
    with tiny_engine.session(n_ctx=256) as session:
        session.hear(pcm)
        said = session.ask(QUESTION, max_new_tokens=6).all_ids()
    traced = [i for i in arrays["greedy_ids"].tolist() if i not in (259,)]
    assert traced == said


def test_an_answer_that_was_never_read_leaves_the_next_one_alone(tiny_engine: Engine) -> None:
    """Reading it late ran its question into the cache under the answer that came after it."""
    with tiny_engine.session(n_ctx=256) as session:
        session.hear(noise(1.0))
        want = session.ask("B?", max_new_tokens=8).all_ids()
        never_read = session.ask("Something long and never read?", max_new_tokens=8)
        second = session.ask("B?", max_new_tokens=8)
        assert never_read.text() == ""
        assert never_read.finish_reason == "cancelled"
        assert second.all_ids() == want


def test_a_prompt_that_does_not_fit_leaves_the_session_usable(tiny_engine: Engine) -> None:
    """The cache was emptied before it was found that the moved sound does not fit into it."""
    with tiny_engine.session(n_ctx=64) as session:
        session.hear(noise(1.0))
        want = session.ask("B?", max_new_tokens=4).all_ids()
        with pytest.raises(ContextFull, match="the audio needs"):
            session.ask(raw_prompt="y" * 100 + "<SpeechHere>")
        assert session.ask("B?", max_new_tokens=4).all_ids() == want


def test_an_answer_read_after_close_is_cancelled(tiny_engine: Engine) -> None:
    session = tiny_engine.session(n_ctx=256)
    session.hear(noise(1.0))
    answer = session.ask("B?")
    session.close()
    assert (answer.text(), answer.finish_reason) == ("", "cancelled")


def test_what_is_asked_in_writing_is_answered_whatever_was_heard(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=256) as fresh, tiny_engine.session(n_ctx=256) as used:
        ids = fresh.ask_in_writing("Who?", max_new_tokens=8).all_ids()
        used.hear(noise(2.0))
        heard = used.ask(QUESTION, max_new_tokens=8).all_ids()
        assert used.ask_in_writing("Who?", max_new_tokens=8).all_ids() == ids
        with pytest.raises(ValueError, match="nothing was heard"):
            used.ask(QUESTION)
        used.hear(noise(2.0))  # with the adapter again
        assert used.ask(QUESTION, max_new_tokens=8).all_ids() == heard


def test_the_adapter_is_off_in_writing_unless_it_is_asked_for(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=256) as session:
        bare = session.ask_in_writing("Who?", max_new_tokens=12).all_ids()
        assert session.ask_in_writing("Who?", max_new_tokens=12, lora_scale=0.0).all_ids() == bare
        assert session.ask_in_writing("Who?", max_new_tokens=12, lora_scale=4.0).all_ids() != bare


def test_a_turn_in_writing_can_be_kept(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=256) as session:
        answer = session.ask_in_writing("Who?", max_new_tokens=4)
        answer.all_ids()
        kept = session.keep()
        assert kept.seconds == 0
        assert kept.n_positions == session.n_used
        session.hear(noise(1.5))
        assert session.ask(QUESTION, max_new_tokens=4).all_ids()


@pytest.mark.parametrize("in_writing", [False, True])
def test_turns_that_stay_keep_the_adapter_that_they_were_heard_with(
    tiny_engine: Engine, in_writing: bool
) -> None:
    with tiny_engine.session(n_ctx=512) as session, tiny_engine.session(n_ctx=512) as alone:
        session.hear(noise(0.8, seed=1))
        session.ask(QUESTION, max_new_tokens=4).all_ids()
        session.keep()
        session.hear(noise(1.5))
        kept = session.ask("Who?", max_new_tokens=1).all_ids()
        session.keep()
        if in_writing:
            session.ask_in_writing("And now?", max_new_tokens=4).all_ids()  # the adapter is off
        session.forget(1)
        alone.hear(noise(1.5))
        again = alone.ask("Who?", max_new_tokens=1).all_ids()
        assert again == kept  # else they would not be the same turns
        alone.keep()
        answers = []
        for one in (session, alone):
            one.hear(noise(1.2, seed=2))
            answers.append(one.ask(QUESTION, max_new_tokens=8).all_ids())
        assert answers[0] == answers[1]


def test_a_question_in_writing_costs_nothing_until_it_is_read(tiny_engine: Engine) -> None:
    with tiny_engine.session(n_ctx=256) as session:
        answer = session.ask_in_writing("Who?", max_new_tokens=4)
        assert session.n_used == 0
        answer.cancel()
        assert answer.all_ids() == []
        assert session.n_used == 0
        answer = session.ask_in_writing("Who?", max_new_tokens=4)
        assert answer.all_ids()
        assert answer.timings_ms["prefill_question"] > 0


def test_a_question_in_writing_that_does_not_fit_leaves_what_was_heard(
    tiny_engine: Engine,
) -> None:
    with tiny_engine.session(n_ctx=64) as session:
        session.hear(noise(1.0))
        ids = session.ask("Who?", max_new_tokens=4).all_ids()
        with pytest.raises(ContextFull, match=r"the question needs .* or ask for less"):
            session.ask_in_writing("word " * 80)
        assert session.ask("Who?", max_new_tokens=4).all_ids() == ids
        with pytest.raises(ValueError, match="max_new_tokens"):
            session.ask_in_writing("Who?", max_new_tokens=0)
    with pytest.raises(SessionClosed):
        session.ask_in_writing("Who?")

"""One conversation: what was heard stays in the KV cache, and every question about it rewinds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .answer import Answer
from .beam_search import Beams, BeamSearch, search_beams
from .context import GRID, Context, full
from .decoder import Decoder
from .encoders import Encoded
from .errors import Interrupted, SessionClosed
from .growing import EXACT, GrowingSound, Streaming
from .hearing import Heard, Hearing
from .manifest import PromptFormat
from .onnx import give_back_free_memory
from .prompt import Prompt, Tokenizer, fill, fill_written, tokenise
from .sampling import Sampling, make_sampler
from .text import Detokenizer

F32 = npt.NDArray[np.float32]

DEFAULT_MAX_NEW_TOKENS = 200  # as SALMONN's decode config


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTurn:
    """A turn that stays in the context."""

    seconds: float  # of sound
    n_positions: int


class Session:
    """One KV cache of fixed size over an engine's weights; use it from one thread at a time.

    0             n_head              n_heard                    n_ctx
    |  BOS, text  |   soft tokens      |  question  |  answer  |  |
    +-- hear(), listen() --------------+-- ask() rewinds to here

    With `keep()` a turn stays in front of the next one. `ask_in_writing()` puts a text in the
    place of the sound.
    """

    def __init__(
        self,
        *,
        encode: Callable[[F32], Encoded],
        grow: Callable[[Streaming], GrowingSound],
        decoder: Decoder,
        form: PromptFormat,
        tokenizer: Tokenizer,
        d_model: int,
        n_queries: int,
    ) -> None:
        self._lora_scale = decoder.lora_scale  # unless a question says otherwise
        self._encode = encode
        self._grow = grow
        self._decoder = decoder
        self._context = Context(decoder, d_model=d_model, bos_id=form.bos_id)
        self._form = form
        self._tokenizer = tokenizer
        self._n_queries = n_queries
        self._hearing: Hearing | None = None
        self._seconds = 0.0  # of the sound that was heard offline
        self._answers: list[Answer] = []  # about the sound in the cache
        self._answer: Answer | None = None
        self._closed = False

    # --- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        """The session itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Give the KV cache back; an answer in flight is cancelled. Closing twice is harmless."""
        self._stop_answer()
        self._closed = True
        self._decoder.close()

    @property
    def n_ctx(self) -> int:
        """Positions the cache was born with."""
        return self._decoder.cache.n_ctx

    @property
    def n_used(self) -> int:
        """Positions in use."""
        return self._decoder.cache.length

    @property
    def kv_bytes(self) -> int:
        """Size of the cache, used or not."""
        return self._decoder.cache.n_bytes

    # --- hearing and asking ----------------------------------------------------------------------

    def hear(self, pcm: F32) -> Heard:
        """Encode a sound and put it into the cache, in place of what was heard before.

        Args:
            pcm: [n_samples], 16 kHz mono, nominally within -1..1.

        Raises:
            AudioFormatError: empty, not one-dimensional, or not finite.
            ContextFull: the soft tokens do not fit; nothing is kept.
            SessionClosed: after `close()`.
        """
        self._check_open()
        self._stop_answer()
        self._hearing = None
        self._answers.clear()
        self._context.rows = self._context.rows[:0]
        encoded = self._encode(pcm)
        started = time.perf_counter()
        self._context.listen(self._head(), lora_scale=self._lora_scale)
        self._context.put(encoded.soft_tokens, keep=0, grid=GRID)
        self._seconds = encoded.seconds
        return Heard(
            seconds=encoded.seconds,
            n_segments=encoded.n_segments,
            n_soft_tokens=len(encoded.soft_tokens),
            notes=encoded.notes,
            timings_ms=encoded.timings_ms | {"prefill_audio": _ms_since(started)},
        )

    def listen(self, streaming: Streaming = EXACT, *, raw_prompt: str | None = None) -> Hearing:
        """Begin a sound that is still being made, in place of what was heard before.

        Args:
            streaming: `EXACT` leaves in the cache what `hear` would, to the last bit; `FAST` does
                most of the work while the sound goes on.
            raw_prompt: the template that will be asked with, if it says something before the sound.

        Raises:
            ContextFull: not even the text before the sound fits.
            ValueError: `FAST` in a session whose policy pads pieces to 30 s.
            SessionClosed: after `close()`.
        """
        self._check_open()
        sound = self._grow(streaming)
        self._stop_answer()
        self._answers.clear()
        self._context.listen(self._head(raw_prompt), lora_scale=self._lora_scale)
        self._hearing = Hearing(
            sound,
            self._context,
            streaming,
            n_queries=self._n_queries,
            claim=self._claim,
        )
        return self._hearing

    def room_s(self, n_positions: int, *, streaming: Streaming = EXACT) -> float:
        """Seconds of sound that take no more than so many positions, at least, however cut."""
        return self._grow(streaming).seconds_of(n_positions // self._n_queries)

    @property
    def transcript_search(self) -> Sampling | BeamSearch:
        """How the bundle would have transcripts searched for that nobody reads as they come.

        Greedy on CUDA, which has no beams yet.
        """
        n_beams = self._form.transcript_beams
        if n_beams == 1 or not self._decoder.has_branches:
            return Sampling()
        return BeamSearch(n_beams=n_beams)

    def ask(
        self,
        question: str | None = None,
        *,
        task: str | None = None,
        raw_prompt: str | None = None,
        sampling: Sampling | BeamSearch | None = None,
        lora_scale: float | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    ) -> Answer:
        """Ask about what was heard; the answer is generated as it is read.

        The cache is rewound to the end of the audio, so a second question costs only its own
        tokens. An answer still being read is cancelled.

        Args:
            question: the user's words.
            task: the name of one of the bundle's tasks, in place of a question.
            raw_prompt: a whole template that holds <SpeechHere> once, in place of both.
            sampling: how tokens are chosen; greedy by default. A `no_repeat_ngram_size` or
                `length_penalty` of None is the bundle's. With a `BeamSearch`, pieces come as soon
                as all beams agree on them, often only at the end.
            lora_scale: what the adapter's output is multiplied by; the session's by default, 0 for
                the bare LLM. Another scale than the last makes other keys and values, so the sound
                is prefilled again (it is not encoded again).
            max_new_tokens: where to stop at the latest.

        Raises:
            ContextFull: the question or the template do not fit into the cache.
            ValueError: nothing was heard yet, or question, task and raw_prompt do not go together.
            SessionClosed: after `close()`.
        """
        self._check_open()
        _check_most(max_new_tokens)
        context, cache = self._context, self._decoder.cache
        if not len(context.rows):
            raise ValueError(
                "nothing was heard that could be asked about: call hear(pcm) before ask(question)"
            )
        prompt = self._tokenised(fill(self._form, question, task=task, raw=raw_prompt))
        self._stop_answer()
        scale = self._lora_scale if lora_scale is None else lora_scale
        if prompt.ids_before != context.head or scale != self._decoder.lora_scale:
            # Cached keys hold their position and what the adapter made of them.
            context.refill(prompt.ids_before, lora_scale=scale, grid=GRID)
        context.rewind()
        n_new = len(prompt.ids_after) + 1
        if n_new > cache.room:
            raise full("the question", n_new, cache.room, cache.n_ctx)
        sampling = self._settled(sampling, no_repeats_of=self._form.no_repeat_ngram_size)
        question_embeds = self._decoder.embed(prompt.ids_after)
        if not prompt.ids_after:
            # A raw prompt may end with the sound: its last position is computed again.
            cache.trim(context.n_heard - 1)
            question_embeds = context.rows[-1:]
        return self._begun(prompt, question_embeds, sampling, max_new_tokens)

    def ask_in_writing(
        self,
        question: str,
        *,
        sampling: Sampling | BeamSearch | None = None,
        lora_scale: float = 0.0,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    ) -> Answer:
        """Ask the language model what was not spoken: no sound stands before the question.

        It takes the place of what was heard; turns that are kept stay in front of it.

        Args:
            question: the user's words.
            sampling: how tokens are chosen; greedy by default, and without the bundle's guard
                against repeats, which is for what it hears.
            lora_scale: 0, the bare LLM, by default: the adapter was trained on sounds.
            max_new_tokens: where to stop at the latest.

        Raises:
            ContextFull: the question does not fit into the cache; what was heard is still there.
            ValueError: there are no words, or the bundle has no template for this.
            SessionClosed: after `close()`.
        """
        self._check_open()
        _check_most(max_new_tokens)
        text = fill_written(self._form, question)
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        if len(ids) + 1 > (room := self._context.room_behind(())):
            raise full("the question", len(ids) + 1, room, self.n_ctx, advice="ask for less")
        self._stop_answer()
        # All of it is the question: it is computed when the answer is read, and can be interrupted.
        self._context.listen((), lora_scale=lora_scale)
        self._hearing = None
        self._answers.clear()
        self._seconds = 0.0
        prompt = Prompt(bos_id=self._form.bos_id, ids_before=(), ids_after=ids)
        sampling = self._settled(sampling, no_repeats_of=0)
        return self._begun(prompt, self._decoder.embed(ids), sampling, max_new_tokens)

    def rest(self) -> None:
        """Give back memory that nothing needs until there is work again; a millisecond or two.

        For whoever listens for days: between turns, when nobody waits. Answers are the same.
        """
        self._decoder.release()
        give_back_free_memory()

    def n_prompt(
        self, question: str | None = None, *, task: str | None = None, raw_prompt: str | None = None
    ) -> int:
        """Positions that a question takes with all the text around the sound.

        Raises:
            ValueError: question, task and raw_prompt do not go together.
        """
        prompt = self._tokenised(fill(self._form, question, task=task, raw=raw_prompt))
        return len(prompt.head) + len(prompt.ids_after)

    # --- turns that stay -------------------------------------------------------------------------

    @property
    def turns(self) -> tuple[KeptTurn, ...]:
        """The turns that are kept, the oldest first."""
        return tuple(
            KeptTurn(seconds=turn.seconds, n_positions=turn.n_positions)
            for turn in self._context.turns
        )

    def keep(self, answer: Answer | None = None) -> KeptTurn:
        """Let an answer so far, its question and the sound stay in front of the next sound.

        SALMONN was not trained on conversations; what earlier turns do to an answer is for the
        caller to measure.

        Args:
            answer: to the sound in the cache; the last one by default.

        Raises:
            ContextFull: the turn does not fit any more; it stays the current one.
            ValueError: no such answer was given since the sound.
            SessionClosed: after `close()`.
        """
        self._check_open()
        answer = self._answers[-1] if answer is None and self._answers else answer
        if answer is None or answer not in self._answers or answer.prompt is None:
            raise ValueError("nothing was asked about the sound: call ask() before keep()")
        self._stop_answer()
        prompt, context = answer.prompt, self._context
        if prompt.ids_before != context.head:
            context.refill(prompt.ids_before, lora_scale=self._decoder.lora_scale, grid=GRID)
        behind = (*prompt.ids_after, *answer.ids, *self._form.eos_ids[:1])
        seconds = self._hearing.seconds if self._hearing is not None else self._seconds
        context.keep(behind, seconds=seconds)
        self._hearing = None
        self._answers.clear()
        return self.turns[-1]

    def forget(self, n_turns: int) -> int:
        """Drop the oldest turns that are kept, as if they had never been.

        Later turns saw them and hold their positions: these are prefilled again, exactly.

        Returns:
            How many positions became free.

        Raises:
            SessionClosed: after `close()`.
        """
        self._check_open()
        self._stop_answer()
        n_before = self._context.n_free
        if self._context.forget(n_turns):
            self._hearing = None
            self._answers.clear()
        return self._context.n_free - n_before

    # --- inside ----------------------------------------------------------------------------------

    def _head(self, raw_prompt: str | None = None) -> tuple[int, ...]:
        """Ids before the sound: the template puts the question behind it, so they are known."""
        text = self._form.template.replace("{}", "") if raw_prompt is None else raw_prompt
        return self._tokenised(text).ids_before

    def _tokenised(self, text: str) -> Prompt:
        return tokenise(text, self._tokenizer, bos_id=self._form.bos_id)

    def _claim(self, hearing: Hearing) -> None:
        self._check_open()
        if hearing is not self._hearing:
            raise ValueError("the session hears another sound by now: listen() again")
        self._stop_answer()
        self._answers.clear()

    def _begun(
        self,
        prompt: Prompt,
        question_embeds: F32,
        sampling: Sampling | BeamSearch,
        max_new_tokens: int,
    ) -> Answer:
        def pieces(answer: Answer) -> Iterator[str]:
            return self._generate(answer, question_embeds, sampling, max_new_tokens)

        self._answer = Answer(pieces, self._decoder.interrupt)
        self._answer.prompt = prompt
        self._answers.append(self._answer)
        return self._answer

    def _generate(
        self,
        answer: Answer,
        question_embeds: F32,
        sampling: Sampling | BeamSearch,
        max_new_tokens: int,
    ) -> Iterator[str]:
        detokenizer = Detokenizer(self._tokenizer)
        started = time.perf_counter()
        for token in self._tokens(answer, question_embeds, sampling, max_new_tokens):
            if not answer.ids:
                answer.timings_ms["first_token"] = _ms_since(started)
                decoding = time.perf_counter()
            else:
                answer.timings_ms["decode"] = _ms_since(decoding)
            answer.ids.append(token)
            if piece := detokenizer.push(token):
                yield piece
        answer.timings_ms.setdefault("first_token", _ms_since(started))
        if answer.ids and answer.finish_reason == "stop":  # the end token took a step too
            answer.timings_ms["decode"] = _ms_since(decoding)
        if rest := detokenizer.flush():
            yield rest

    def _tokens(
        self,
        answer: Answer,
        question_embeds: F32,
        sampling: Sampling | BeamSearch,
        max_new_tokens: int,
    ) -> Iterator[int]:
        """The ids of an answer, until it ends or is cancelled in the middle of a step."""
        if answer.cancelled:  # before it was ever read: the cache belongs to another answer now
            answer.finish_reason = "cancelled"
            return
        if isinstance(sampling, BeamSearch):
            tokens = self._searched(answer, question_embeds, sampling, max_new_tokens)
        else:
            tokens = self._sampled(answer, question_embeds, sampling, max_new_tokens)
        while True:
            try:
                with answer.cancellable(self._decoder.resume):
                    token = next(tokens, None)
            except Interrupted:
                answer.finish_reason = "cancelled"
                return
            if token is None:
                return
            yield token

    def _first_logits(self, answer: Answer, question_embeds: F32) -> F32:
        started = time.perf_counter()
        logits = self._decoder.prefill(question_embeds)
        answer.timings_ms["prefill_question"] = _ms_since(started)
        return logits

    def _sampled(
        self, answer: Answer, question_embeds: F32, sampling: Sampling, max_new_tokens: int
    ) -> Iterator[int]:
        """One id after the other; says on the answer why it ended."""
        logits = self._first_logits(answer, question_embeds)
        sample = make_sampler(sampling, bos_id=self._form.bos_id)
        while True:
            token = sample(logits, answer.ids)
            if token in self._form.eos_ids:
                answer.finish_reason = "stop"
                return
            yield token
            # Read after the yield: the caller may have cancelled, or asked something else.
            if answer.cancelled:
                answer.finish_reason = "cancelled"
            elif len(answer.ids) == max_new_tokens:
                answer.finish_reason = "length"
            elif self._decoder.cache.room == 0:
                answer.finish_reason = "context"
            if answer.finish_reason is not None:
                return
            logits = self._decoder.step(token)

    def _searched(
        self, answer: Answer, question_embeds: F32, search: BeamSearch, max_new_tokens: int
    ) -> Iterator[int]:
        """The ids of the best text, as far as every beam agrees on them; the rest at the end."""
        logits = self._first_logits(answer, question_embeds)
        beams = Beams(search, bos_id=self._form.bos_id, eos_ids=self._form.eos_ids)
        n_said = 0
        for _ in search_beams(self._decoder, logits, beams, max_new_tokens=max_new_tokens):
            while n_said < len(beams.settled):
                n_said += 1
                yield beams.settled[n_said - 1]
            if answer.cancelled:
                answer.finish_reason = "cancelled"
                return
        ids, stopped = beams.result()
        yield from ids[n_said:]
        if stopped:
            answer.finish_reason = "stop"
        else:
            answer.finish_reason = "length" if len(ids) == max_new_tokens else "context"

    def _settled(
        self, sampling: Sampling | BeamSearch | None, *, no_repeats_of: int
    ) -> Sampling | BeamSearch:
        """What was asked for, with the bundle's choice where nothing was."""
        sampling = sampling or Sampling()
        if sampling.no_repeat_ngram_size is None:
            sampling = replace(sampling, no_repeat_ngram_size=no_repeats_of)
        if isinstance(sampling, BeamSearch) and sampling.length_penalty is None:
            sampling = replace(sampling, length_penalty=self._form.length_penalty)
        return sampling

    def _stop_answer(self) -> None:
        if self._answer is not None and self._answer.finish_reason is None:
            self._answer.cancel()
            self._answer.finish_reason = "cancelled"
            self._answer = None

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosed("this session was closed; open another with engine.session()")


def _check_most(max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3

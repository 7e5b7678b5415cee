"""Options that several commands share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from kokanee.engine import AudioLimits, BeamSearch, Engine, Sampling
from kokanee.engine.manifest import Policy
from kokanee.quant.schemes import LLM_SCHEMES

F = TypeVar("F", bound=Callable[..., Any])

NANO = "nano"
FOUR_HOURS = AudioLimits(max_s=4 * 3600)
"""Of recordings that are heard phrase by phrase or turn by turn: 0.9 GB of samples."""


def as_json(command: F) -> F:
    """--json."""
    return click.option(
        "--json", "as_json", is_flag=True, help="One JSON object on the last line."
    )(command)


def cache_dir(command: F) -> F:
    """--cache-dir."""
    return click.option(
        "--cache-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where nano is kept.  [default: the user's cache folder]",
    )(command)


def storage(command: F) -> F:
    """--llm-quant, --kv-cache, --calibration and --receipt: how a language model is stored."""
    schemes = "; ".join(f"{name}: {scheme.says}" for name, scheme in LLM_SCHEMES.items())
    for option in (
        click.option(
            "--receipt/--no-receipt",
            default=True,
            help="Measure what storing it so did, into the bundle's manifest.",
        ),
        click.option(
            "--calibration",
            type=click.Path(dir_okay=False, path_type=Path),
            help="A text file, or JSON lines with text, or with path, question and answer, for the"
            " schemes that calibrate.  [default: what comes with Kokanee]",
        ),
        click.option(
            "--kv-cache",
            type=click.Choice(["int8", "float32"]),
            help="Give it an int8 cache, or only the float32 one."
            "  [default: int8 where the language model is quantized]",
        ),
        click.option(
            "--llm-quant",
            type=click.Choice(["none", *LLM_SCHEMES]),
            help=f"Storage of the language model. none: floats; {schemes}.",
        ),
    ):
        command = option(command)
    return command


def machine(command: F) -> F:
    """--device, --threads, --kv-cache, --cache-dir: where a bundle runs and where nano is found."""
    for option in (
        cache_dir,
        click.option(
            "--kv-cache",
            type=click.Choice(["auto", "float32", "int8"]),
            default="auto",
            help="On the CPU; int8 takes a quarter of the memory.  [default: int8 if it has one]",
        ),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]"),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="Where to compute.",
        ),
    ):
        command = option(command)
    return command


def prompt(command: F) -> F:
    """--task, --raw-prompt and --lora-scale: what the model is asked, and how strongly tuned."""
    for option in (
        click.option(
            "--lora-scale",
            type=click.FloatRange(min=0),
            help="Strength of the adapter: 0 is the bare language model, SALMONN transcribes at 4"
            " and tells stories near 2.  [default: the bundle's]",
        ),
        click.option(
            "--raw-prompt",
            metavar="TEXT",
            help="A whole prompt with <SpeechHere> in it, in place of a question.",
        ),
        click.option("--task", help="A named task of the bundle, in place of a question."),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class PadTo:
    """What --pad-to-s was given; None: pad to whole windows only."""

    seconds: float | None


class _PadToType(click.ParamType[PadTo]):
    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> PadTo:
        if isinstance(value, PadTo):
            return value
        if value == "none":
            return PadTo(None)
        seconds: float = click.FloatRange(1, 30).convert(value, param, ctx)
        return PadTo(seconds)


def policy(command: F) -> F:
    """--pad-to-s and --long-audio: how sound is cut and padded."""
    for option in (
        click.option(
            "--long-audio",
            type=click.Choice(["cut", "segment"]),
            help="What is longer than the encoders take: dropped, or heard piece by piece."
            "  [default: the bundle's; official checkpoints: cut]",
        ),
        click.option(
            "--pad-to-s",
            type=_PadToType(),
            metavar="SECONDS|none",
            help="Fill up with silence to here, so that the number of soft tokens is always the"
            " same; none: to whole windows only."
            "  [default: the bundle's; official checkpoints: 30]",
        ),
    ):
        command = option(command)
    return command


def hearing(command: F) -> F:
    """How sound is cut and padded, and who listens."""
    return policy(
        click.option(
            "--audio-encoder/--no-audio-encoder",
            default=True,
            help="Leave BEATs out: zeros in its place, an ablation.",
        )(command)
    )


def hearing_policy(
    bundle: Policy, pad_to_s: PadTo | None, long_audio: Literal["cut", "segment"] | None
) -> Policy:
    """The bundle's policy with what the command line says otherwise.

    Without padding, only whole windows are encoded: the longest stretch is then a little shorter.
    """
    changed = bundle if long_audio is None else replace(bundle, long_audio=long_audio)
    if pad_to_s is None:
        return changed
    seconds = pad_to_s.seconds
    n_frames = round((bundle.max_s if seconds is None else seconds) * 50)
    n_windows = (n_frames - bundle.window_frames) // bundle.stride_frames
    whole = (bundle.window_frames + n_windows * bundle.stride_frames) / 50
    return replace(changed, pad_to_s=seconds, max_s=whole if seconds is None else seconds)


def sampling(command: F) -> F:
    """The fields of `Sampling` and of `BeamSearch`, under their own names."""
    above_0 = click.FloatRange(min=0, min_open=True)
    up_to_1 = click.FloatRange(0, 1, min_open=True)
    for option in (
        click.option(
            "--length-penalty",
            type=float,
            help="With --beams: the higher, the longer the answers.  [default: the bundle's choice,"
            " 0 for nano, 1 for SALMONN]",
        ),
        click.option(
            "--beams",
            type=click.IntRange(min=1),
            help="Follow so many answers at once and take the likeliest; SALMONN's paper has 4."
            "  [default: 1; where words are written down before anybody reads them, the bundle's"
            " choice, 4 for nano]",
        ),
        click.option("--seed", type=int, help="Makes sampling repeatable."),
        click.option("--repetition-penalty", type=above_0, default=1.0, show_default=True),
        click.option(
            "--no-repeat-ngram-size",
            type=click.IntRange(min=0),
            metavar="N",
            help="Say no run of N tokens twice in an answer; 0: anything.  [default: the bundle's"
            " choice, 4 for nano, 0 for SALMONN]",
        ),
        click.option("--min-p", type=click.FloatRange(0, 1), default=0.0, show_default=True),
        click.option("--top-p", type=up_to_1, default=1.0, show_default=True),
        click.option("--top-k", type=click.IntRange(min=0), default=0, help="0: all tokens."),
        click.option(
            "--temperature",
            type=click.FloatRange(min=0),
            default=0.0,
            show_default=True,
            help="0 always takes the likeliest token.",
        ),
    ):
        command = option(command)
    return command


def check_search(*, beams: int | None, temperature: float, **_: Any) -> None:
    """What can be told of `sampling`'s options before there is a bundle.

    Raises:
        click.UsageError: beams and random choice exclude each other.
    """
    if temperature and (beams or 1) > 1:
        raise click.UsageError("--beams and --temperature exclude each other.")


def make_search(
    *,
    beams: int | None,
    length_penalty: float | None,
    repetition_penalty: float,
    no_repeat_ngram_size: int | None,
    **sampling: Any,
) -> Sampling | BeamSearch:
    """What `sampling`'s options stand for where an answer is read as it comes.

    Raises:
        click.UsageError: beams and random choice exclude each other; a penalty of length goes with
            beams.
    """
    if beams is None or beams == 1:
        if length_penalty is not None:
            raise click.UsageError("--length-penalty goes with --beams.")
        return Sampling(
            repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            **sampling,
        )
    check_search(beams=beams, **sampling)
    return BeamSearch(
        n_beams=beams,
        length_penalty=length_penalty,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
    )


def make_transcript_search(default: Sampling | BeamSearch, **knobs: Any) -> Sampling | BeamSearch:
    """What they stand for where a transcript is wanted as a whole.

    Args:
        default: `Session.transcript_search`, which counts where --beams was not given.
        knobs: as for `make_search`.

    Raises:
        click.UsageError: as `make_search`.
    """
    if knobs["beams"] is not None or knobs["temperature"] or not isinstance(default, BeamSearch):
        return make_search(**knobs)
    return make_search(**knobs | {"beams": default.n_beams})


def max_new_tokens(default: int) -> Callable[[F], F]:
    """--max-new-tokens."""
    return click.option(
        "--max-new-tokens",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Stop there at the latest.",
    )


@dataclass(frozen=True, slots=True)
class Words:
    """The words after a command: [BUNDLE] FILE ["QUESTION"]."""

    bundle: str
    file: Path
    question: str | None


def read_words(
    words: tuple[str, ...],
    *,
    task: str | None,
    raw_prompt: str | None,
    needs_question: bool = True,
) -> Words:
    """Tells bundle, file and question apart.

    A question is expected unless there is a task (some take one as well), a raw prompt, or a
    command that does without.

    Raises:
        click.UsageError: If there are too few words, or too many.
    """
    if raw_prompt is not None and task is not None:
        raise click.UsageError("--raw-prompt and --task exclude each other.")
    n_questions = 0 if raw_prompt is not None else 1
    optional = task is not None or not needs_question
    if optional and (len(words) == 1 or (len(words) == 2 and _is_bundle(words[0]))):
        n_questions = 0
    if not 1 <= len(words) - n_questions <= 2:
        wanted = '[BUNDLE] FILE "QUESTION"' if n_questions else "[BUNDLE] FILE"
        quoted = " ".join(f'"{word}"' if " " in word else word for word in words)
        raise click.UsageError(f"Expected {wanted}, got: {quoted or 'nothing'}")
    *before, file = words[: len(words) - n_questions]
    return Words(
        bundle=before[0] if before else NANO,
        file=Path(file),
        question=words[-1] if n_questions else None,
    )


def _is_bundle(word: str) -> bool:
    return word == NANO or Path(word).is_dir()


def say_notes(engine: Engine) -> None:
    """What a bundle's receipt says against it, on standard error."""
    for note in engine.notes:
        click.echo(f"kokanee: note: {note}", err=True)

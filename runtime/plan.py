"""`kokanee plan`: whether a model fits a machine or card, and how fast it would be there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from kokanee.benchmarks import forecast, planning, profile
from kokanee.benchmarks.forecast import Speed
from kokanee.benchmarks.machine import machine, versions
from kokanee.benchmarks.planning import Configuration, Part, Place
from kokanee.benchmarks.roofline import Range, gpu_efficiency, published_shares, read_devices
from kokanee.engine import KokaneeError
from kokanee.export.nano import default_cache
from kokanee.quant.schemes import LLM_SCHEMES

from . import options
from .bundle import BuildProgress
from .memory import machine_mb

THIS = "this machine"
_SAME = ("cpu", "n_cpus", "instructions")  # a profile of other ones is another machine's
_GPU = (
    "Shares of the card's peaks measured by others with llama.cpp, not with this software"
    " (kokanee plan --list-devices --json has the rows and their sources). Nobody has run this on a"
    " GPU: a range from best to worst, and no promise that it holds."
)

EXAMPLES = """\b
Examples:
  kokanee plan 7B
  kokanee plan 13B --llm-quant int4 --device "RTX 4070" --json
  kokanee plan my-bundle/ --context 4096
  kokanee plan nano --measure
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", required=False)
@click.option(
    "--llm-quant",
    type=click.Choice(["none", *LLM_SCHEMES]),
    help="Storage of the language model.  [default: int4_block128; nano's and a bundle's own]",
)
@click.option(
    "--encoder-quant",
    type=click.Choice(list(planning.ENCODERS)),
    help="Storage of the encoders.  [default: int8; nano's and a bundle's own]",
)
@click.option(
    "--context", type=int, metavar="N", help="Positions of the KV cache.  [default: 2048]"
)
@click.option(
    "--kv-cache",
    type=click.Choice(["float32", "int8", "float16"]),
    help="[default: int8 on a processor if the model has one, float16 on a GPU]",
)
@click.option("--device", metavar="NAME", help=f"A card of the table.  [default: {THIS}]")
@click.option("--list-devices", is_flag=True, help="Show the table of cards, and leave.")
@click.option("--measure", is_flag=True, help="Measure this machine first: a minute or two, once.")
@options.cache_dir
@options.as_json
def command(
    *,
    model: str | None,
    llm_quant: str | None,
    encoder_quant: str | None,
    context: int | None,
    kv_cache: str | None,
    device: str | None,
    list_devices: bool,
    measure: bool,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Say whether a model fits a machine, and how fast it would be.

    MODEL is nano, 7B, 13B or the folder of a bundle. Nothing is downloaded, opened or run.
    """
    if list_devices:
        _list_devices(as_json)
        return
    path = (cache_dir or default_cache()) / profile.FILE
    if measure:
        _measure(path)
        if model is None:
            return
    if model is None:
        raise click.UsageError("Expected MODEL: nano, 7B, 13B or the folder of a bundle.")
    if device is None or device.casefold() in (THIS, "cpu"):
        mb = machine_mb()
        place = Place(name=THIS, memory_bytes=None if mb is None else mb * 1e6)
    else:
        place = Place.card(planning.find_device(device))
    configuration = planning.configure(
        model,
        llm_quant=llm_quant,
        encoder_quant=encoder_quant,
        kv_cache=kv_cache,
        n_ctx=context,
        on_gpu=place.on_gpu,
    )
    plan = make(configuration, place, known(path))
    if as_json:
        click.echo(json.dumps(plan.to_json()))
    else:
        _show(plan)


@dataclass(frozen=True, slots=True)
class Known:
    """A profile, whose it is, and that in words."""

    profile: profile.Profile
    of_this_machine: bool
    says: str


def known(path: Path, recorded: Path = profile.RECORDED) -> Known:
    """This machine's profile if it was measured, else the recorded one."""
    kept = profile.read(path if path.is_file() else recorded)
    now = machine()
    alike = all(kept.machine.get(name) == now.get(name) for name in _SAME)
    runs = {name: kept.versions.get(name) for name in ("onnxruntime",)}
    cpus = f"{kept.machine.get('n_cpus')} CPUs of an {kept.machine.get('cpu')}, {kept.date}"
    if path.is_file() and alike:
        says = f"Operators measured on this machine ({cpus})."
        if runs != versions(("onnxruntime",)):
            says += f" ONNX Runtime was {runs['onnxruntime']} then: measure again with --measure."
        return Known(kept, True, says)
    if path.is_file():
        says = f"Operators measured on ANOTHER machine ({cpus}), whose profile lies in {path}."
    else:
        says = f"Operators measured on the REFERENCE machine ({cpus}), NOT on this one."
    return Known(kept, False, f"{says} For this one: kokanee plan --measure.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is said."""

    configuration: Configuration
    place: Place
    fits: bool | None
    tight: bool  # it fits, with less left than a desktop takes
    parts: tuple[Part, ...]
    speed: Speed
    suggestion: planning.Suggestion | None
    smallest_device: str | None
    efficiencies: str
    uncertainty: str
    measured_here: bool

    def to_json(self) -> dict[str, Any]:
        """One object."""
        room = self.place.room
        suggestion = self.suggestion
        return {
            "PREDICTED": True,
            "model": self.configuration.model,
            "device": self.place.name,
            "configuration": self.configuration.to_json(),
            "fits": self.fits,
            "tight": self.tight,
            "memory": {
                "has_gb": _gb(self.place.memory_bytes),
                "room_gb": _gb(room),
                "needs_gb": _gb(planning.needed(self.parts)),
                "parts": [
                    {
                        "name": part.name,
                        "mb": round(part.n_bytes / 1e6, 1),
                        "where": part.where,
                        "estimated": part.estimated,
                    }
                    for part in self.parts
                ],
            },
            "predicted": self.speed.to_json(),
            "efficiencies": self.efficiencies,
            "measured_on_this_machine": self.measured_here,
            "uncertainty": self.uncertainty,
            "suggestion": None
            if suggestion is None
            else {
                "changed": suggestion.changed,
                "command": suggestion.options,
                "configuration": suggestion.configuration.to_json(),
            },
            "smallest_device": self.smallest_device,
        }


def make(configuration: Configuration, place: Place, known: Known) -> Plan:
    """The plan of a configuration at a place."""
    fits = place.fits(configuration)
    suggestion = smallest = None
    if fits is False:
        suggestion = planning.nearest(configuration, place)
        card = planning.smallest_device(configuration)
        smallest = card.name if card else None
    if place.device is not None:
        features = known.profile.seconds("features", rows=5) / 5
        speed = forecast.on_card(configuration, place.device, gpu_efficiency(), features)
        efficiencies = _GPU
        shares = gpu_efficiency()
        uncertainty = (
            f"best to worst: {shares.compute[0]:.0%} to {shares.compute[1]:.0%} of its arithmetic,"
            f" {shares.bandwidth[0]:.0%} to {shares.bandwidth[1]:.0%} of its bandwidth"
        )
    else:
        speed = forecast.on_processor(configuration, known.profile)
        efficiencies = known.says
        uncertainty = (
            f"within a factor of {forecast.worst_factor():.2f} of what was measured minutes after"
            " the profile: every stage of nano and 7B, on two cores, what other programs took"
            " taken off (kokanee.benchmarks.plan_check)"
        )
        if not known.of_this_machine:
            uncertainty += "; how far this machine differs from that one is not known"
    return Plan(
        configuration=configuration,
        place=place,
        fits=fits,
        tight=place.tight(configuration),
        parts=planning.budget(configuration, on_gpu=place.on_gpu),
        speed=speed,
        suggestion=suggestion,
        smallest_device=smallest,
        efficiencies=efficiencies,
        uncertainty=uncertainty,
        measured_here=known.of_this_machine and not place.on_gpu,
    )


def _measure(path: Path) -> None:
    from kokanee.benchmarks import profile_measure  # loads numpy's and ONNX Runtime's machinery

    try:
        with BuildProgress() as progress:
            made = profile_measure.measure(progress)
    except OSError as error:
        raise KokaneeError(f"measuring needs room for temporary files: {error}") from error
    made.write(path)
    click.echo(f"kokanee: measured in {made.took_s:.0f} s, kept in {path}", err=True)


def _list_devices(as_json: bool) -> None:
    devices = read_devices()
    if as_json:
        from kokanee.benchmarks.roofline import DEVICES

        table = json.loads(DEVICES.read_text("utf-8"))
        shares = dataclasses.asdict(gpu_efficiency())
        rows = [dataclasses.asdict(share) for share in published_shares()]
        click.echo(json.dumps(table | {"shares": rows, "efficiency": shares}))
        return
    cards = Table(box=None)
    for title in ("card", "memory", "bandwidth", "float16"):
        cards.add_column(title, justify="left" if title == "card" else "right")
    for d in devices:
        cards.add_row(
            d.name, f"{d.memory_gb:g} GB", f"{d.bandwidth_gb_s:g} GB/s", f"{d.tflops:g} TFLOPS"
        )
    Console(markup=False, highlight=False).print(cards)
    click.echo(_GPU)


# --- for people -----------------------------------------------------------------------------------


def _gb(n_bytes: float | None) -> float | None:
    return None if n_bytes is None else round(n_bytes / 1e9, 2)


def _show(plan: Plan) -> None:
    c, place, console = plan.configuration, plan.place, Console(markup=False, highlight=False)
    needs, room = planning.needed(plan.parts) / 1e9, place.room
    head = {True: "fits", False: "does NOT fit", None: "memory unknown:"}[plan.fits]
    has = "" if room is None else f" of {room / 1e9:.1f} GB"
    kept = (
        "" if place.on_gpu or room is None else f" ({planning.SYSTEM_GB:g} GB left to the system)"
    )
    console.print(f"{planning.shown(c.model)} {head} {place.name}: {needs:.2f} GB{has}{kept}")
    console.print(
        f"language model {c.llm_quant}, encoders {c.encoder_quant}, {c.kv_cache} cache of"
        f" {c.n_ctx} positions"
    )
    if plan.tight:
        console.print(
            f"tight: less than {planning.DESKTOP_GB:g} GB left, which a desktop or a browser takes"
        )
    if plan.suggestion is not None:
        console.print(f"nearest that fits: {', '.join(plan.suggestion.changed)}")
        console.print(f"    {plan.suggestion.options}", soft_wrap=True)
    if plan.fits is False:
        nothing = "" if plan.suggestion else "nothing smaller fits; "
        card = plan.smallest_device
        console.print(f"{nothing}the smallest card that holds it as it is: {card or 'none here'}")
    console.print(_memory(plan.parts))
    console.print(_speed(plan))
    console.print(f"PREDICTED, not measured. {plan.efficiencies}")
    console.print(f"Uncertainty: {plan.uncertainty}.")


_WHERE = {"memory": "", "card": "card", "host": "host", "mapped": "mapped from its file"}


def _memory(parts: Sequence[Part]) -> Table:
    table = Table(box=None, title="Memory", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for part in parts:
        where = ", ".join(w for w in (_WHERE[part.where], "estimated" * part.estimated) if w)
        table.add_row(part.name.replace("_", " "), f"{part.n_bytes / 1e6:.0f} MB", where)
    return table


def _speed(plan: Plan) -> Table:
    speed, on_gpu = plan.speed, plan.place.on_gpu
    title = "Speed, if it had the memory" if plan.fits is False else "Speed"
    table = Table(box=None, title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")

    def row(what: str, took: Range) -> None:
        table.add_row(what, _duration(took, on_gpu))

    for length, stages in speed.encode.items():
        row(f"encode {float(length):.0f} s of sound", forecast.total(stages))
    row(f"prefill {speed.n_audio} positions, 30 s of sound", speed.prefill_audio)
    rate = Range(
        best=speed.n_audio / speed.prefill_audio.best,
        worst=speed.n_audio / speed.prefill_audio.worst,
    )
    table.add_row("  that is", _rate(rate, on_gpu))
    row(f"question of {plan.configuration.n_question} positions", speed.question)
    for what, step in (("behind 150 positions", speed.step_short), ("full", speed.step_full)):
        table.add_row(
            f"decode, context {what}",
            _rate(Range(best=1 / step.best, worst=1 / step.worst), on_gpu),
        )
    for name, took in speed.first_token.items():
        mode, length = name.removesuffix("s").split("_")
        table.add_row(
            f"end of speech to first token, {mode}, {length} s of voice",
            f"{_seconds(took.best)} to {_seconds(took.worst)}",
        )
    for name, took in speed.offline.items():
        row(f"offline, {name.removesuffix('s')} s of sound to first token", took)
    return table


def _duration(took: Range, on_gpu: bool) -> str:
    ends = f"{_seconds(took.best)} to {_seconds(took.worst)}"
    return ends if on_gpu else f"{_seconds((took.best * took.worst) ** 0.5)} ({ends})"


def _seconds(s: float) -> str:
    return f"{s:.2f} s" if s >= 1 else f"{1e3 * s:.0f} ms" if s >= 0.01 else f"{1e3 * s:.1f} ms"


def _rate(rate: Range, on_gpu: bool) -> str:
    ends = f"{rate.best:.3g} to {rate.worst:.3g} /s"
    return ends if on_gpu else f"{(rate.best * rate.worst) ** 0.5:.3g} /s ({ends})"

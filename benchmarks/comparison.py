"""Two records -> what became better or worse beyond the noise, and what else explains it.

A difference counts only if the confidence interval of the ratio leaves out 1 and the ratio itself
is beyond a limit. If the whole interval lies within the limit, the two are the same; else the noise
hides what happened:

                 1/1.05      1      1.05
                    |        |        |
                    |        |        |    |-----*----|   worse    (where less is better)
                    |   |----*----|   |                   the same within noise
                    |     |------*--------------|         too noisy to say
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import click

from .confidence import Ratio, ratio
from .record import Better, Measure, Part, Record, read

THRESHOLD = 0.05
WORSE = 3  # exit code

Verdict = Literal[
    "worse",
    "better",
    "changed",  # a count that is neither
    "too noisy to say",
    "the same within noise",
    "the same",
]

_FEW = 3  # of fewer samples an interval is too narrow to be believed
_UNTIMED = ("MB", "B")  # other guests of a machine slow it down; they do not make ours larger


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One number of both records."""

    key: str
    unit: str
    better: Better | None
    before: float  # the median; a count's value
    after: float
    ratio: Ratio | None  # after / before; None where it was counted, or cannot be divided
    limit: float | None  # beyond which share it counts
    verdict: Verdict
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two records side by side."""

    explanations: tuple[str, ...]  # what else differs between the records, in words
    noisy: tuple[str, ...]  # parts that were measured on a busy machine, in words
    differences: tuple[Difference, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    def of(self, *verdicts: Verdict) -> tuple[Difference, ...]:
        """Those with one of these verdicts."""
        return tuple(d for d in self.differences if d.verdict in verdicts)


def compared(before: Record, after: Record, *, threshold: float = THRESHOLD) -> Comparison:
    """Every number that both records hold, and what else differs.

    Args:
        before: what is divided by.
        after: what is divided.
        threshold: a time counts as another if it moved by more than this share; twice as much, or
            as much as the machine's own unsteadiness, in parts that were measured on a busy one.
    """
    noisy, limits = [], {}
    for part, again in _both(before, after):
        limit, said = _limit(part, again, threshold)
        limits[part.name] = limit
        noisy += [said] * bool(said)
    was, now = dict(before.measures()), dict(after.measures())
    counted, recounted = dict(before.counts()), dict(after.counts())
    found = []
    for name, measure in was.items():
        if name in now:
            part_of = name.partition(".")[0]
            limit = threshold if measure.unit in _UNTIMED else limits[part_of]
            found.append(_measured(name, measure, now[name], limit))
    for name, count in counted.items():
        if name in recounted:
            again_ = recounted[name]
            better = again_.better
            found.append(_counted(name, count.unit, count.value, again_.value, better))
    keys, new = (*was, *counted), (*now, *recounted)
    return Comparison(
        explanations=tuple(_explanations(before, after)),
        noisy=tuple(noisy),
        differences=tuple(found),
        only_before=tuple(k for k in keys if k not in {*new}),
        only_after=tuple(k for k in new if k not in {*keys}),
    )


def differences(
    recorded: Record, again: Record, *, threshold: float = THRESHOLD
) -> tuple[Difference, ...]:
    """The numbers that came out otherwise than recorded by more than the noise."""
    return compared(recorded, again, threshold=threshold).of("worse", "better", "changed")


def _measured(name: str, before: Measure, after: Measure, limit: float) -> Difference:
    was, now = before.statistics.median, after.statistics.median
    verdict: Verdict = "too noisy to say"
    divided, why = None, None
    if before.samples == after.samples:
        verdict = "the same"
    elif before.unit != after.unit:
        why = f"in {after.unit or 'no unit'} now"
    elif before.unit == "dB" or min(*before.samples, *after.samples, 1.0) <= 0:
        why = "cannot be divided"
    else:
        divided = ratio(after.samples, before.samples, paired=False)
        verdict = _verdict(divided, limit, before.better)
        if min(len(before.samples), len(after.samples)) < _FEW:
            verdict, why = "too noisy to say", f"fewer than {_FEW} samples"
    return Difference(
        key=name,
        unit=before.unit,
        better=before.better,
        before=was,
        after=now,
        ratio=divided,
        limit=limit,
        verdict=verdict,
        why=why,
    )


def _verdict(found: Ratio, limit: float, better: Better) -> Verdict:
    least, most = 1 / (1 + limit), 1 + limit
    if found.low > 1 and found.ratio > most:
        return "worse" if better == "less" else "better"
    if found.high < 1 and found.ratio < least:
        return "better" if better == "less" else "worse"
    if least <= found.low and found.high <= most:
        return "the same within noise"
    return "too noisy to say"


def _counted(
    name: str, unit: str, before: float, after: float, better: Better | None
) -> Difference:
    verdict: Verdict = "changed"
    if math.isclose(before, after, rel_tol=1e-9, abs_tol=1e-12):
        verdict = "the same"
    elif better is not None:
        verdict = "better" if (after < before) == (better == "less") else "worse"
    return Difference(
        key=name,
        unit=unit,
        better=better,
        before=before,
        after=after,
        ratio=None,
        limit=None,
        verdict=verdict,
        why="counted",
    )


def _both(before: Record, after: Record) -> Iterator[tuple[Part, Part]]:
    again = {part.name: part for part in after.parts}
    for part in before.parts:
        if part.name in again:
            yield part, again[part.name]


def _limit(before: Part, after: Part, threshold: float) -> tuple[float, str]:
    """How far apart two of these may be, and why that is wider than the threshold."""
    busy = {
        when: part.noise
        for when, part in (("before", before), ("after", after))
        if not part.noise.quiet
    }
    if not busy:
        return threshold, ""
    unsteady = max(noise.evidence.get("control_spread", 1.0) - 1 for noise in busy.values())
    limit = max(2 * threshold, unsteady)
    when = " and ".join(busy)
    return limit, (
        f"{before.name}: the machine was busy {when}; times count as different beyond"
        f" {limit:.0%} instead of {threshold:.0%}"
    )


# --- what else differs ----------------------------------------------------------------------------

_MACHINE = ("cpu", "n_cpus", "instructions", "memory_gb", "governor", "system")
_HOW_OFTEN = ("rounds", "warmup", "against", "contenders")  # settings that move no median


def _explanations(before: Record, after: Record) -> Iterator[str]:
    """What explains differences beside the code, the weightiest first."""
    yield from _machines(before.conditions, after.conditions)
    was, now = before.subject, after.subject
    apart = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if apart:
        names = [f"{s.get('name', 'unnamed')} {_short(_hash(s))}".strip() for s in (was, now)]
        told = ", ".join(apart)
        yield f"different bundle: {names[0]} before, {names[1]} after ({told} differ)"
    for part, again in _both(before, after):
        yield from _settings(part, again)
    was, now = (_flat(r.conditions.get("commit")) for r in (before, after))
    if was != now:
        yield f"different code: {_commit(was)} before, {_commit(now)} after"


def _machines(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    a, b = _flat(was.get("machine")), _flat(now.get("machine"))
    apart = [name for name in _MACHINE if a.get(name) != b.get(name)]
    gpus = [_flat(c.get("gpu")).get("name") for c in (was, now)]
    told = [f"{name} {a.get(name)} before, {b.get(name)} after" for name in apart]
    if gpus[0] != gpus[1]:
        told.append(f"GPU {gpus[0]} before, {gpus[1]} after")
    if told:
        yield f"different machine: ratios say little ({'; '.join(told)})"
    for name in ("threads", "device"):
        if was.get(name) != now.get(name):
            yield f"different {name}: {was.get(name)} before, {now.get(name)} after"
    if a.get("python") != b.get("python"):
        yield f"different Python: {a.get('python')} before, {b.get('python')} after"
    versions = [_flat(c.get("libraries")) for c in (was, now)]
    for name in sorted({**versions[0], **versions[1]}):
        one, other = (v.get(name, "none") for v in versions)
        if one != other:
            yield f"different {name}: {one} before, {other} after"


def _settings(before: Part, after: Part) -> Iterator[str]:
    was, now = before.settings, after.settings
    # JSON has no tuples: what was just measured may hold some.
    for name in sorted({**was, **now}.keys() - {*_HOW_OFTEN}):
        one, other = (json.dumps(s.get(name), sort_keys=True, default=str) for s in (was, now))
        if one != other:
            yield f"{before.name}: different {name}: {one} before, {other} after"


def _flat(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _hash(subject: Mapping[str, Any]) -> str:
    return next((str(v) for k, v in subject.items() if "sha256" in k or "hash" in k), "")


def _short(digest: str) -> str:
    return digest[:12]


def _commit(commit: Mapping[str, Any]) -> str:
    if not commit:
        return "no clone"
    return _short(str(commit.get("hash"))) + " with changes" * bool(commit.get("changed"))


# --- the command ----------------------------------------------------------------------------------

_RECORD = click.Path(dir_okay=False, exists=True, path_type=Path)


def _share(ctx: click.Context, param: click.Parameter, value: str) -> float:
    text = value.strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise click.BadParameter(f"expected a share as 5% or 0.05, got {value!r}")
    return share


EXAMPLES = f"""\b
Examples:
  kokanee bench compare before.json after.json
  kokanee bench compare before.json after.json --threshold 10%
  kokanee bench compare before.json after.json || echo "exit code $?: {WORSE} is worse"

\b
Exit code:
  0  nothing is worse, as far as the noise lets see
  {WORSE}  something is worse
  2  misused
  1  any other error, as a file that is no record
"""


@click.command(epilog=EXAMPLES)
@click.argument("before", type=_RECORD)
@click.argument("after", type=_RECORD)
@click.option(
    "--threshold",
    default=f"{THRESHOLD:.0%}",
    show_default=True,
    callback=_share,
    help="A time counts as better or worse beyond this. Wider where the machine was busy.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def compare(
    ctx: click.Context, *, before: Path, after: Path, threshold: float, as_json: bool
) -> None:
    """Say what is better or worse in record AFTER than in BEFORE.

    A time counts as different if the 95 % interval of the ratio of the two medians leaves out 1
    and the ratio is beyond the threshold. What is counted (bytes, right answers) counts as
    different if it is not equal. Other machines, threads, bundles and versions are said first.
    """
    from .shown import show_comparison  # it shows what this module finds

    found = compared(read(before), read(after), threshold=threshold)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found)))
    else:
        show_comparison(found)
    if found.of("worse"):
        ctx.exit(WORSE)


def counted_verdicts(found: Sequence[Difference]) -> dict[Verdict, int]:
    """How many there are of each verdict, the worst first."""
    order: tuple[Verdict, ...] = get_args(Verdict)
    return {v: n for v in order if (n := sum(d.verdict == v for d in found))}

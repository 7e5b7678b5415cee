"""`kokanee build` from official checkpoints: what it accepts, refuses, and survives."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kokanee.engine import Engine, read_manifest
from kokanee.engine.manifest import verify_files
from kokanee.export.checkpoint import Unpickler
from kokanee.export.pickled import index
from kokanee.runtime.__main__ import main

MODEL = Path(__file__).parents[1] / "golden" / "salmonn" / "model"
LORA = "llama_model.base_model.model.model.layers.0.self_attn"

Change = Callable[[Path], object]


class Result:
    """What a build said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def assert_refused(self, *words: str) -> None:
        assert (self.code, self.out) == (1, "")
        message = self.err.splitlines()[-1]
        assert message.startswith("kokanee: ")
        for word in words:
            assert word in message


@pytest.fixture(autouse=True)
def unpickled_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same reading without the second or two that a process needs to load torch.

    Tests of what runs where have a process of their own, marked `in_a_process`.
    """

    def ask(self: Unpickler, path: Path, spill: Path) -> Any:
        try:
            return json.loads(json.dumps(index(path, spill)))
        except Exception as error:
            return {"error": str(error)}

    if "in_a_process" not in request.keywords:
        monkeypatch.setattr(Unpickler, "_ask", ask)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A copy of the official files, to change."""
    return Path(shutil.copytree(MODEL, tmp_path / "parts", copy_function=shutil.copyfile))


@pytest.fixture
def build(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def build(*options: str) -> Result:
        with pytest.raises(SystemExit) as left:
            main(["build", str(tmp_path / "out"), *arguments(parts), *options])
        captured = capsys.readouterr()
        return Result(int(left.value.code or 0), captured.out, captured.err)

    return build


def arguments(parts: Path) -> list[str]:
    return [
        *("--salmonn", str(parts / "salmonn.pth"), "--whisper", str(parts / "whisper")),
        *("--beats", str(parts / "beats.pt"), "--llm", str(parts / "llama")),
        *("--qformer-config", str(parts / "qformer_bert_overrides.json")),
        *("--llm-quant", "none", "--encoder-quant", "none"),
    ]


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def hashes(bundle: Path) -> dict[str, str]:
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest)
    return {name: file.sha256 for name, file in manifest.files.items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of the bundle that the unchanged files become."""
    out = tmp_path_factory.mktemp("plain") / "out"
    with pytest.raises(SystemExit):
        main(["build", str(out), *arguments(MODEL)])
    return hashes(out)


# --- accepted ------------------------------------------------------------------------------------


def _no_buffers(parts: Path) -> None:
    checkpoint = load(parts / "salmonn.pth")
    checkpoint["model"] = {
        name: tensor
        for name, tensor in checkpoint["model"].items()
        if not name.startswith("beats.") and "inv_freq" not in name and "position_ids" not in name
    }
    torch.save(checkpoint, parts / "salmonn.pth")


def _bare_model(parts: Path) -> None:
    """Neither config nor epoch: the defaults are the official ones."""
    torch.save({"model": load(parts / "salmonn.pth")["model"]}, parts / "salmonn.pth")


def _optimizer_state(parts: Path) -> None:
    checkpoint = load(parts / "salmonn.pth")
    trained = [t for n, t in checkpoint["model"].items() if t.is_floating_point()]
    checkpoint["optimizer"] = {
        "state": {i: {"exp_avg": t.clone(), "step": 7.0} for i, t in enumerate(trained)},
        "param_groups": [{"lr": 3e-5, "params": list(range(len(trained)))}],
    }
    torch.save(checkpoint, parts / "salmonn.pth")


def _older_peft(parts: Path) -> None:
    checkpoint = load(parts / "salmonn.pth")
    checkpoint["model"] = {
        name.replace(".default.", "."): tensor for name, tensor in checkpoint["model"].items()
    }
    torch.save(checkpoint, parts / "salmonn.pth")


def _text_branch(parts: Path) -> None:
    checkpoint = load(parts / "salmonn.pth")
    bert = "speech_Qformer.bert"
    checkpoint["model"] |= {
        f"{bert}.embeddings.word_embeddings.weight": torch.zeros(30, 48),
        f"{bert}.embeddings.position_embeddings.weight": torch.zeros(5, 48),
        f"{bert}.encoder.layer.0.intermediate.dense.weight": torch.zeros(96, 48),
        f"{bert}.encoder.layer.0.output.dense.weight": torch.zeros(48, 96),
        f"{bert}.encoder.layer.1.output.LayerNorm.bias": torch.zeros(48),
        "speech_Qformer.cls.predictions.bias": torch.zeros(30),
    }
    torch.save(checkpoint, parts / "salmonn.pth")


def _before_zip(parts: Path) -> None:
    for name in ("salmonn.pth", "llama/pytorch_model.bin"):
        torch.save(load(parts / name), parts / name, _use_new_zipfile_serialization=False)


def _transposed_views(parts: Path) -> None:
    weights = load(parts / "llama" / "pytorch_model.bin")
    weights = {n: t.T.contiguous().T if t.ndim == 2 else t for n, t in weights.items()}
    torch.save(weights, parts / "llama" / "pytorch_model.bin")


def _sharded_bin(parts: Path) -> None:
    _shard(parts / "llama", "pytorch_model-{:05d}-of-00002.bin", torch.save)


def _sharded_safetensors(parts: Path) -> None:
    _shard(parts / "llama", "model-{:05d}-of-00002.safetensors", save_file)


def _shard(folder: Path, pattern: str, save: Callable[..., None]) -> None:
    weights = load(folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").unlink()
    names = sorted(weights)
    weight_map = {name: pattern.format(1 + i % 2) for i, name in enumerate(names)}
    for shard in set(weight_map.values()):
        save({n: weights[n] for n in names if weight_map[n] == shard}, folder / shard)
    index = pattern.split("-")[0] + "." + pattern.rpartition(".")[2] + ".index.json"
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _encoder_alone(parts: Path) -> None:
    whisper = load(parts / "whisper" / "pytorch_model.bin")
    (parts / "whisper" / "pytorch_model.bin").unlink()
    prefix = "model.encoder."
    alone = {n.removeprefix(prefix): t for n, t in whisper.items() if n.startswith(prefix)}
    save_file(alone, parts / "whisper" / "model.safetensors")


def _whisper_model(parts: Path) -> None:
    whisper = load(parts / "whisper" / "pytorch_model.bin")
    renamed = {n.removeprefix("model."): t for n, t in whisper.items()}
    torch.save(renamed, parts / "whisper" / "pytorch_model.bin")


def _newer_weight_norm(parts: Path) -> None:
    beats = load(parts / "beats.pt")
    at = "encoder.pos_conv.0."
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        beats["model"][f"{at}parametrizations.weight.{new}"] = beats["model"].pop(f"{at}{old}")
    torch.save(beats, parts / "beats.pt")


@pytest.mark.parametrize(
    "change",
    [
        _no_buffers,
        _bare_model,
        _optimizer_state,
        _older_peft,
        _text_branch,
        _before_zip,
        _transposed_views,
        _sharded_bin,
        _sharded_safetensors,
        _encoder_alone,
        _whisper_model,
        _newer_weight_norm,
    ],
)
def test_the_same_weights_in_other_clothes_are_the_same_bundle(
    change: Change, parts: Path, build: Callable[..., Result], plain: dict[str, str], tmp_path: Path
) -> None:
    change(parts)
    assert build().code == 0
    assert hashes(tmp_path / "out") == plain
    assert {p.name for p in tmp_path.iterdir()} == {"parts", "out"}


def test_bfloat16_is_read(parts: Path, build: Callable[..., Result], tmp_path: Path) -> None:
    weights = load(parts / "llama" / "pytorch_model.bin")
    (parts / "llama" / "pytorch_model.bin").unlink()
    halves = {n: t.to(torch.bfloat16).contiguous() for n, t in weights.items()}
    save_file(halves, parts / "llama" / "model.safetensors")
    assert build().code == 0
    with Engine.open(tmp_path / "out", device="cpu") as engine:
        row = engine._embedding.rows((7,))[0]
    assert row.tolist() == halves["model.embed_tokens.weight"][7].float().tolist()


def test_another_vicuna_is_warned_about() -> None:
    from kokanee.export.dims import LlamaConfig
    from kokanee.export.official import vicuna_warning

    def config(d_model: int, epsilon: float, n_positions: int) -> LlamaConfig:
        return LlamaConfig(
            d_model=d_model,
            n_layers=32,
            n_heads=32,
            n_kv_heads=32,
            d_head=128,
            d_ffn=11008,
            n_vocab=32000,
            n_positions=n_positions,
            rope_theta=10_000.0,
            rms_epsilon=epsilon,
            tied_head=False,
            lora_rank=8,
        )

    assert vicuna_warning(config(4096, 1e-5, 4096)) is None
    assert vicuna_warning(config(5120, 1e-6, 2048)) is None
    assert vicuna_warning(config(64, 1e-6, 2048)) is None
    warning = vicuna_warning(config(4096, 1e-6, 2048))
    assert warning is not None
    assert "not Vicuna v1.5" in warning
    assert "v1.1" in str(vicuna_warning(config(5120, 1e-5, 4096)))


def test_a_warning_is_said_and_the_bundle_made(
    build: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kokanee.export.salmonn.vicuna_warning", lambda config: "another Vicuna")
    result = build()
    assert result.code == 0
    assert "kokanee: warning: " in result.err
    assert "llama: another Vicuna\n" in result.err


# --- refused -------------------------------------------------------------------------------------


def _edit(parts: Path, name: str, edit: Callable[[dict[str, Any]], object]) -> None:
    checkpoint = load(parts / name)
    edit(checkpoint.get("model", checkpoint))
    torch.save(checkpoint, parts / name)


def _edit_json(parts: Path, name: str, **values: Any) -> None:
    data = json.loads((parts / name).read_text())
    (parts / name).write_text(json.dumps(data | values))


def _one_shard_lost(parts: Path) -> None:
    _sharded_bin(parts)
    (parts / "llama" / "pytorch_model-00002-of-00002.bin").unlink()


REFUSED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "missing": (
        lambda p: _edit(p, "salmonn.pth", lambda m: m.pop("speech_llama_proj.bias")),
        ("salmonn.pth", "missing speech_llama_proj.bias"),
    ),
    "unexpected": (
        lambda p: _edit(p, "salmonn.pth", lambda m: m.update({"ln_music.weight": torch.ones(3)})),
        ("salmonn.pth", "unexpected ln_music.weight"),
    ),
    "adapter on other matrices": (
        lambda p: _edit(
            p,
            "salmonn.pth",
            lambda m: m.update({f"{LORA}.k_proj.lora_A.weight": torch.ones(8, 64)}),
        ),
        ("unexpected", f"{LORA}.k_proj.lora_A.weight"),
    ),
    "adapter of another depth": (
        lambda p: _edit(p, "salmonn.pth", lambda m: m.pop(f"{LORA}.q_proj.lora_B.default.weight")),
        ("salmonn.pth", "missing model.layers.0.self_attn.q_proj.lora_B.weight"),
    ),
    "no adapter": (
        lambda p: _edit(p, "salmonn.pth", lambda m: [m.pop(n) for n in list(m) if "lora_" in n]),
        ("salmonn.pth", "missing the LoRA adapter"),
    ),
    "another shape": (
        lambda p: _edit(p, "salmonn.pth", lambda m: m.update({"ln_audio.bias": torch.ones(3)})),
        ("salmonn.pth", "ln_audio.bias is [3] instead of [64]"),
    ),
    "another width": (
        lambda p: _edit(
            p,
            "salmonn.pth",
            lambda m: m.update(
                {
                    "speech_llama_proj.weight": torch.ones(4096, 48),
                    "speech_llama_proj.bias": torch.ones(4096),
                }
            ),
        ),
        ("this LLM is 64 wide", "trained with 4096 (Vicuna 7B v1.5)"),
    ),
    "bert-base expected": (
        lambda p: (p / "qformer_bert_overrides.json").write_text("{}"),
        ("speech_query_tokens is [1, 1, 48]", "--qformer-config"),
    ),
    "unknown Q-Former size": (
        lambda p: (p / "qformer_bert_overrides.json").write_text('{"hidden": 48}'),
        ("unknown ['hidden']", "known are"),
    ),
    "another BEATs": (
        lambda p: _edit(
            p,
            "beats.pt",
            lambda m: [t.add_(1) for n, t in m.items() if n.endswith("attention_bias.weight")],
        ),
        ("is this the BEATs that SALMONN was trained with",),
    ),
    "unexpected in BEATs": (
        lambda p: _edit(p, "beats.pt", lambda m: m.update({"mask_emb": torch.ones(3)})),
        ("beats.pt", "unexpected mask_emb"),
    ),
    "missing in BEATs": (
        lambda p: _edit(p, "beats.pt", lambda m: m.pop("patch_embedding.weight")),
        ("beats.pt", "missing patch_embedding.weight"),
    ),
    "BEATs of another kind": (
        lambda p: torch.save(
            {**(b := load(p / "beats.pt")), "cfg": {**b["cfg"], "layer_norm_first": True}},
            p / "beats.pt",
        ),
        ("cfg.layer_norm_first is True, expected False",),
    ),
    "no BEATs": (
        lambda p: shutil.copyfile(p / "llama" / "pytorch_model.bin", p / "beats.pt"),
        ("expected the entries cfg and model",),
    ),
    "missing in Whisper": (
        lambda p: _edit(
            p, "whisper/pytorch_model.bin", lambda m: m.pop("model.encoder.layer_norm.bias")
        ),
        ("whisper", "missing model.encoder.layer_norm.bias"),
    ),
    "large-v3": (
        lambda p: _edit_json(p, "whisper/config.json", num_mel_bins=128),
        ("num_mel_bins is 128, expected 80", "whisper-large-v2"),
    ),
    "missing in the LLM": (
        lambda p: _edit(p, "llama/pytorch_model.bin", lambda m: m.pop("lm_head.weight")),
        ("llama", "missing lm_head.weight"),
    ),
    "unexpected in the LLM": (
        lambda p: _edit(
            p, "llama/pytorch_model.bin", lambda m: m.update({"model.layers.2.x": torch.ones(2)})
        ),
        ("llama", "unexpected model.layers.2.x"),
    ),
    "another LLM": (
        lambda p: _edit_json(p, "llama/config.json", model_type="mistral"),
        ("model_type is 'mistral', expected 'llama'",),
    ),
    "another vocabulary": (
        lambda p: _edit_json(p, "llama/config.json", vocab_size=641),
        ("tokenizer.model has 640 pieces, config.json says 641",),
    ),
    "no tokenizer": (
        lambda p: (p / "llama" / "tokenizer.model").unlink(),
        ("tokenizer.model: no such file",),
    ),
    "a pointer": (
        lambda p: (p / "llama" / "pytorch_model.bin").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        ),
        ("pytorch_model.bin: this is a git-lfs pointer",),
    ),
    "cut short": (
        lambda p: os.truncate(p / "salmonn.pth", 200_000),
        ("salmonn.pth: cannot be read as a PyTorch checkpoint",),
    ),
    "no checkpoint": (
        lambda p: (p / "salmonn.pth").write_bytes(b"hello"),
        ("salmonn.pth: cannot be read as a PyTorch checkpoint",),
    ),
    "a missing shard": (
        _one_shard_lost,
        ("pytorch_model-00002-of-00002.bin: no such file",),
    ),
    "no weights": (
        lambda p: (p / "whisper" / "pytorch_model.bin").unlink(),
        ("expected model.safetensors or pytorch_model.bin",),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(
    case: str, parts: Path, build: Callable[..., Result], tmp_path: Path
) -> None:
    change, words = REFUSED[case]
    change(parts)
    build().assert_refused(*words)
    assert {p.name for p in tmp_path.iterdir()} == {"parts"}  # nothing was begun


class _Harm:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.mark.in_a_process
def test_a_pickle_runs_nothing(parts: Path, build: Callable[..., Result], tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    with (parts / "salmonn.pth").open("wb") as file:
        pickle.dump({"model": _Harm(proof)}, file)
    build().assert_refused("salmonn.pth: cannot be read as a PyTorch checkpoint")
    torch.save({"model": _Harm(proof)}, parts / "salmonn.pth")
    build().assert_refused("salmonn.pth")
    assert not proof.exists()


def test_half_of_the_options_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*args: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(["build", *args])
        assert left.value.code == 2
        return capsys.readouterr().err

    assert "--whisper, --beats, --llm, OUT" in failing("--salmonn", "x.pth")
    assert "--encoder-quant: only with --salmonn" in failing("--encoder-quant", "int8")
    assert "nano is built as int4 or none" in failing("--llm-quant", "int8")
    assert "for nano" in failing(str(tmp_path / "o"), "--salmonn", "x.pth", "--source", "hub")


@pytest.mark.parametrize(
    ("prompts", "complaint"),
    [
        ({}, "got none"),
        ({"asr": ["one", "two"]}, "asr: expected a prompt"),
        ({"asr": "in the middle <SpeechHere> of it"}, "asr: expected some words"),
    ],
)
def test_prompts_that_are_none_are_refused(
    prompts: dict[str, Any], complaint: str, build: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    build("--prompts", str(tmp_path / "prompts.json")).assert_refused("prompts.json", complaint)


def test_prompts_of_ones_own_become_tasks(build: Callable[..., Result], tmp_path: Path) -> None:
    prompts = {"shout": "<Speech><SpeechHere></Speech> Shout it.", "qa": "{}"}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    assert build("--prompts", str(tmp_path / "prompts.json")).code == 0
    assert read_manifest(tmp_path / "out").prompt.tasks == {"shout": "Shout it.", "qa": "{}"}


# --- interrupted ---------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import kokanee.export.fill as fill
from kokanee.runtime.bundle import BuildProgress
from kokanee.runtime.__main__ import main

fill._JOURNAL_EVERY = 1
n_calls, after = 0, int(sys.argv[1])

def count(self, what, n_done, n_total):
    global n_calls
    n_calls += 1
    if n_calls == after:
        os.kill(os.getpid(), signal.Signals[sys.argv[2]])

BuildProgress.__call__ = count
main(sys.argv[3:])
"""


@pytest.mark.parametrize("after", [1, 20, 60, 110, 140])
def test_a_killed_build_goes_on_and_ends_the_same(
    after: int, parts: Path, build: Callable[..., Result], plain: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(after), "SIGKILL", "build", str(out)]
    killed = subprocess.run([*command, *arguments(parts)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    left = tmp_path / ".out-building"
    before = {p.name: p.stat().st_mtime_ns for p in left.glob("*.bin")}
    assert build().code == 0
    assert hashes(out) == plain
    # Weight files that were whole were not written again.
    assert {n: (out / n).stat().st_mtime_ns for n in before} == before
    assert {p.name for p in tmp_path.iterdir()} == {"parts", "out"}


def test_ctrl_c_keeps_what_is_done(parts: Path, plain: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, "60", "SIGINT", "build", str(out)]
    stopped = subprocess.run(
        [*command, *arguments(parts)], capture_output=True, text=True, check=False
    )
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert stopped.stderr.endswith("kokanee: stopped\n")
    assert "Traceback" not in stopped.stderr
    assert (tmp_path / ".out-building" / "speech_encoder.bin").is_file()
    again = [sys.executable, "-c", KILLED, "0", "SIGINT", "build", str(out), *arguments(parts)]
    subprocess.run(again, check=True, capture_output=True)
    assert hashes(out) == plain


def test_other_ingredients_start_afresh(
    parts: Path, build: Callable[..., Result], plain: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, "60", "SIGKILL", "build", str(out)]
    subprocess.run([*command, *arguments(parts)], capture_output=True, check=False)
    _edit(parts, "whisper/pytorch_model.bin", lambda m: m["model.encoder.conv1.bias"].add_(1))
    assert build().code == 0
    changed = hashes(out)
    assert {n for n in changed if changed[n] != plain[n]} == {"speech_encoder.bin"}


def test_two_builds_of_one_bundle_are_refused(build: Callable[..., Result], tmp_path: Path) -> None:
    from kokanee.export.bundle import Workspace

    with Workspace(tmp_path / "out", resumable=True):
        build().assert_refused("another build is writing")


def test_an_older_bundle_stays_until_the_new_one_is_whole(
    parts: Path, build: Callable[..., Result], plain: dict[str, str], tmp_path: Path
) -> None:
    assert build().code == 0
    _edit(parts, "salmonn.pth", lambda m: m.pop("ln_speech.bias"))
    build().assert_refused("missing ln_speech.bias")
    assert hashes(tmp_path / "out") == plain

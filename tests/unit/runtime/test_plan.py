"""`kokanee plan` answers in one line or one object, without what builds or trains models."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kokanee.benchmarks.profile import FILE, RECORDED, ProfileError, read
from kokanee.benchmarks.roofline import read_devices
from kokanee.engine import KokaneeError
from kokanee.runtime.__main__ import COMMANDS
from kokanee.runtime.plan import command


def run(tmp_path: Path, *words: str) -> Result:
    """With an empty cache folder: no profile of this machine."""
    return CliRunner().invoke(command, [*words, "--cache-dir", str(tmp_path)])


def plan(tmp_path: Path, *words: str) -> dict[str, Any]:
    """The JSON object."""
    done = run(tmp_path, *words, "--json")
    assert done.exit_code == 0, done.output
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def test_it_is_listed_before_doctor() -> None:
    names = list(COMMANDS)
    assert names.index("plan") + 1 == names.index("doctor")


def test_the_object_has_all_that_is_said(tmp_path: Path) -> None:
    made = plan(tmp_path, "13b", "--llm-quant", "int4", "--device", "RTX 4070")
    assert made["PREDICTED"] is True
    assert made["fits"] is True
    assert made["configuration"] == {
        "model": "13b",
        "llm_quant": "int4",
        "encoder_quant": "int8",
        "kv_cache": "float16",
        "n_ctx": 2048,
    }
    assert [part["name"] for part in made["memory"]["parts"]] == [
        "speech_encoder",
        "audio_encoder",
        "connector",
        "llm",
        "kv_cache",
        "activations",
        "unpacked_matrix",
        "cuda",
        "process",
        "embedding_table",
    ]
    on_card = sum(p["mb"] for p in made["memory"]["parts"] if p["where"] == "card")
    assert made["memory"]["needs_gb"] == pytest.approx(on_card / 1e3, abs=0.01)
    predicted = made["predicted"]
    assert list(predicted["encode_ms"]) == ["5.1", "29.92"]
    assert set(predicted["decode_tokens_per_s"]) == {"short", "full"}
    lengths = [f"{mode}_{n}s" for mode in ("fast", "exact") for n in (5, 20)]
    assert list(predicted["end_of_speech_to_first_token_ms"]) == lengths
    assert set(predicted["offline_to_first_token_ms"]) == {"5s", "20s"}
    assert "not with this software" in made["efficiencies"]
    assert made["suggestion"] is None


def test_what_does_not_fit_is_answered_with_what_does(tmp_path: Path) -> None:
    made = plan(tmp_path, "13B", "--device", "RTX 3070")
    assert made["fits"] is False
    assert made["suggestion"]["configuration"]["model"] == "7b"
    words = made["suggestion"]["command"].replace('"', "").split("--device")
    again = plan(tmp_path, *words[0].split()[2:], "--device", words[1].strip())
    assert again["fits"] is True
    assert again["configuration"] == made["suggestion"]["configuration"]
    text = run(tmp_path, "13B", "--device", "RTX 3070").stdout
    assert "does NOT fit RTX 3070" in text
    assert "nearest that fits: 7B in place of 13B" in text


def test_a_card_that_holds_it_is_named_where_nothing_smaller_would_do(tmp_path: Path) -> None:
    made = plan(tmp_path, "7B", "--llm-quant", "none", "--device", "RTX 4060")
    assert made["fits"] is False
    assert made["suggestion"]["changed"]
    assert made["smallest_device"] in {device.name for device in read_devices()}


def test_without_a_profile_it_says_whose_figures_they_are(tmp_path: Path) -> None:
    made = plan(tmp_path, "nano")
    assert made["measured_on_this_machine"] is False
    assert "REFERENCE machine" in made["efficiencies"]
    assert "kokanee plan --measure" in made["efficiencies"]
    assert "NOT on this one" in " ".join(run(tmp_path, "nano").stdout.split())


def test_another_machines_profile_is_called_that(tmp_path: Path) -> None:
    kept = json.loads(RECORDED.read_text("utf-8"))
    kept["machine"]["cpu"] = "Toy"
    (tmp_path / FILE).write_text(json.dumps(kept), "utf-8")
    assert "ANOTHER machine" in plan(tmp_path, "nano")["efficiencies"]


def test_a_kept_profile_of_this_machine_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = read(RECORDED)
    profile.write(tmp_path / FILE)
    monkeypatch.setattr("kokanee.runtime.plan.machine", lambda: dict(profile.machine))
    made = plan(tmp_path, "nano")
    assert made["measured_on_this_machine"] is True
    assert "factor of" in made["uncertainty"]


def test_a_damaged_profile_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}", "utf-8")
    done = run(tmp_path, "nano")
    assert isinstance(done.exception, ProfileError)
    assert "--measure" in str(done.exception)


@pytest.mark.parametrize(
    "words",
    [
        ("7B", "--device", "RTX 4O70"),
        ("70B",),
        ("13B", "--context", "100000"),
        ("7B", "--kv-cache", "float16"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(tmp_path, *words)
    assert isinstance(done.exception, KokaneeError)
    assert "\n" not in str(done.exception)


def test_without_a_model_the_usage_is_shown(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.exit_code == 2
    assert "nano, 7B, 13B" in done.stderr


def test_measuring_needs_an_extra_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    done = run(tmp_path, "--measure")
    assert isinstance(done.exception, ProfileError)
    assert "kokanee[build]" in str(done.exception)
    assert not (tmp_path / FILE).exists()


def test_the_table_of_cards_has_the_shares_and_their_sources(tmp_path: Path) -> None:
    made = json.loads(run(tmp_path, "--list-devices", "--json").stdout)
    assert [d["name"] for d in made["devices"]] == [device.name for device in read_devices()]
    assert all(share["source"].startswith("https://") for share in made["shares"])
    text = run(tmp_path, "--list-devices").stdout
    assert "RTX 4070 Ti SUPER" in text


FORBIDDEN = ("torch", "transformers", "onnx", "psutil")


@pytest.mark.parametrize("words", [["7B"], ["13B", "--device", "RTX 4070"], ["nano"]])
def test_it_runs_without_what_builds_models(tmp_path: Path, words: list[str]) -> None:
    blocked = "import sys\n" + "".join(f"sys.modules[{n!r}] = None\n" for n in FORBIDDEN)
    script = f"{blocked}from kokanee.runtime.plan import command\ncommand()"
    done = subprocess.run(
        [sys.executable, "-c", script, *words, "--json", "--cache-dir", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["PREDICTED"] is True

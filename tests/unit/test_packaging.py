"""One import name over five top-level folders, and a run time without torch."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import kokanee

ROOT = Path(__file__).parents[2]
FOLDERS = ("engine", "export", "quant", "runtime", "benchmarks")

FORBID = """
import sys
for name in ("torch", "transformers", "onnx", "optimum", "bitsandbytes", "gptqmodel"):
    sys.modules[name] = None
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FORBID + code], capture_output=True, text=True, check=False
    )


def test_links_and_wheel_mapping_name_the_same_folders() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    sources = wheel["targets"]["wheel"]["sources"]
    assert sources == {"src": "", **{f: f"kokanee/{f}" for f in FOLDERS}}
    assert set(FOLDERS) <= set(wheel["targets"]["wheel"]["only-include"])
    for folder in FOLDERS:
        assert (ROOT / "src" / "kokanee" / folder).resolve() == ROOT / folder


@pytest.mark.parametrize(
    "module",
    [
        "kokanee",
        "kokanee.engine",
        "kokanee.runtime",
        "kokanee.runtime.__main__",
        "kokanee.runtime.bench",
        "kokanee.runtime.plan",
        "kokanee.export.nano",
    ],
)
def test_imports_without_torch(module: str) -> None:
    done = run(f"import {module}")
    assert done.returncode == 0, done.stderr


def test_no_module_is_loaded_under_two_names() -> None:
    done = run(
        "import kokanee.engine, kokanee.runtime.__main__, kokanee.export.nano\n"
        "seen = {}\n"
        "for name, module in list(sys.modules.items()):\n"
        "    file = getattr(module, '__file__', None)\n"
        f"    if file and {str(ROOT)!r} in file and '.venv' not in file:\n"
        "        import os; file = os.path.realpath(file)\n"
        "        assert seen.setdefault(file, name) == name, (file, name, seen[file])\n"
        "assert not {'engine', 'runtime', 'export', 'quant'} & sys.modules.keys()\n"
    )
    assert done.returncode == 0, done.stderr


def test_public_names_are_what_is_importable() -> None:
    from kokanee import engine

    assert len(set(engine.__all__)) == len(engine.__all__)
    for name in engine.__all__:
        assert hasattr(engine, name), name
    for name in kokanee.__all__:
        assert getattr(kokanee, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'sing'"):
        kokanee.sing  # noqa: B018 - the look-up is the test
    assert (
        kokanee.__version__
        == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    )

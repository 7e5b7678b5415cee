"""Fetches and unpacks the Debian packages that training reads: DEBS/<file>.deb, TREE/<package>.

What `export/nano/training.json` lists must have the hash that it lists; what is there already is
not fetched again. About 6 GB, and twice that unpacked; `dpkg-deb` and `apt-get download` do the
work, so that it needs Debian 12 and its package lists (`apt-get update`), but no root.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from training.sounds import PACKAGES

RECORD = Path("export/nano/training.json")
OTHERS = (
    # sounds that have a layout of their own
    "freedoom",
    "gcompris-qt-data",
    "openttd-opensfx",
    # speech
    "beneath-a-steel-sky",
    "drascula",
    "asterisk-core-sounds-es-g722",
    "asterisk-core-sounds-fr-g722",
    "asterisk-core-sounds-it-g722",
    "csmash-data",
    "fillets-ng-data-cs",
    "fillets-ng-data-nl",
    "flight-of-the-amazon-queen",
    "klettres-data",
    "scid-data",
    # texts
    "fortunes",
    "fortunes-min",
    "wamerican",
    # licences
    "fluid-soundfont-gm",
)


def hashes() -> dict[str, str]:
    """File name to SHA-256 of what the published weights were trained on."""
    data = json.loads(RECORD.read_text())["data"]
    return {entry["deb"]: entry["sha256"] for entry in data if "deb" in entry}


def fetch(package: str, debs: Path) -> Path:
    """The package's file in `debs`, downloaded if it is not there.

    Raises:
        RuntimeError: apt does not have it.
    """
    found = next(debs.glob(f"{package}_*.deb"), None)
    if found is None:
        line = ["apt-get", "download", "-qq", package]
        done = subprocess.run(line, cwd=debs, capture_output=True, text=True, check=False)
        found = next(debs.glob(f"{package}_*.deb"), None)
        if found is None:
            raise RuntimeError(f"{package}: {done.stderr.strip() or 'not fetched'}")
    return found


def unpack(deb: Path, folder: Path) -> None:
    """As a whole or not at all, so that a folder that is there is complete."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-x", deb, part], check=True)
    part.rename(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("debs", type=Path)
    parser.add_argument("tree", type=Path)
    options = parser.parse_args()
    options.debs.mkdir(parents=True, exist_ok=True)
    options.tree.mkdir(parents=True, exist_ok=True)
    known, wrong = hashes(), []
    packages = sorted({*PACKAGES, *OTHERS})
    for i, package in enumerate(packages, 1):
        print(f"\r{i}/{len(packages)} {package:40}", end="", file=sys.stderr, flush=True)
        if (options.tree / package).is_dir():
            continue
        try:
            deb = fetch(package, options.debs)
        except RuntimeError as error:
            wrong.append(str(error))
            continue
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        if digest != known.get(deb.name.replace("%3a", ":"), digest):
            wrong.append(f"{deb.name}: SHA-256 {digest}, not that of {RECORD}")
            continue
        unpack(deb, options.tree / package)
    print(file=sys.stderr)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""The virtual environments of the other scripts: made once, renewed when setup.cfg changes."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 10), (3, 13)


def lower_bounds(setup: str) -> list[str]:
    """A pip constraint for each requirement in the text of a setup.cfg: its lowest version."""
    config = configparser.ConfigParser()
    config.read_string(setup)
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = sorted({line.strip() for text in lists for line in text.splitlines() if line.strip()})
    bounds = [re.fullmatch(r"([A-Za-z0-9_-]+)>=([0-9.]+)", line) for line in lines]
    for line, bound in zip(lines, bounds, strict=True):
        if bound is None:
            sys.exit(f"setup.cfg requires {line!r}: give a lower bound, such as numpy>=2.0")
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound]


def make(name: str, extras: str, data: tuple[str, ...] = (), *, lowest: bool = False) -> Path:
    """The Python of the environment ROOT/name, made if needed, with latentdb and its extras.

    Packages of `data` are installed without what they depend on: only their files are read.
    With `lowest`, every dependency has the lowest version that setup.cfg allows.
    """
    if os.name != "posix":
        sys.exit("latentdb runs on Linux and macOS: its stores rely on POSIX locks")
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        sys.exit(
            f"this is Python {sys.version.split()[0]}, tensorflow needs 3.10 to 3.13: "
            f"run it with one of those, as in  python3.12 {sys.argv[0]}"
        )
    folder = ROOT / name
    python = folder / "bin" / "python"
    stamp = folder / "latentdb-environment"
    wanted = hashlib.sha256(
        f"{sys.version} {folder} {extras} {data}".encode() + (ROOT / "setup.cfg").read_bytes()
    ).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print(f"making the environment {folder} (tensorflow is 600 MB: a minute or two)", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", folder], check=False)
    if made.returncode:
        sys.exit("python -m venv failed: on Debian and Ubuntu it needs  apt install python3-venv")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if lowest:
        constraints = folder / "lowest.txt"
        constraints.write_text("\n".join(lower_bounds((ROOT / "setup.cfg").read_text())) + "\n")
        install += ["--constraint", constraints]
    wanted_packages = [["--editable", f"{ROOT}[{extras}]"]]
    wanted_packages += [["--no-deps", package] for package in data]
    for packages in wanted_packages:
        if subprocess.run([*install, *packages], check=False).returncode:
            sys.exit(f"pip could not install {packages[-1]}: see its message above")
    stamp.write_text(wanted)
    return python

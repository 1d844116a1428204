"""The virtual environment of the other scripts: made once, renewed when setup.cfg changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 10), (3, 13)


def make(name: str, extras: str) -> Path:
    """Make ROOT/name with latentdb and its extras in it; give the path of its Python."""
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
        f"{sys.version} {folder} {extras}".encode() + (ROOT / "setup.cfg").read_bytes()
    ).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print(f"making the environment {folder} (tensorflow is 600 MB: a minute or two)", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", folder], check=False)
    if made.returncode:
        sys.exit("python -m venv failed: on Debian and Ubuntu it needs  apt install python3-venv")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*install, "--editable", f"{ROOT}[{extras}]"], check=False)
    if done.returncode:
        sys.exit("pip could not install latentdb: see its message above")
    stamp.write_text(wanted)
    return python

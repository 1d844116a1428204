"""The environment of the other systems: made once, each installed by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.systems import SYSTEMS

# What pip is asked for, by the distribution whose version is reported.
ASKED = {
    "hnswlib": ["hnswlib"],
    "usearch": ["usearch"],
    "scann": ["scann"],
    "lancedb": ["lancedb"],
    "chromadb": ["chromadb"],
    "qdrant-client": ["qdrant-client"],
    "milvus-lite": ["pymilvus", "milvus-lite"],
}

_VERSIONS = """
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def versions(folder: Path) -> dict[str, str]:
    """Of the peers that are installed in an environment; empty where there is none."""
    python = python_of(folder)
    if not python.exists():
        return {}
    done = subprocess.run(
        [python, "-c", _VERSIONS, *ASKED], stdout=subprocess.PIPE, text=True, check=False
    )
    found: dict[str, str] = json.loads(done.stdout or "{}")
    return found


def prepare(folder: Path, names: list[str], *, install: bool) -> dict[str, str]:
    """Make the environment and install what is missing in it.

    Parameters
    ----------
    folder
        Of the environment; one that exists is added to.
    names
        Of the systems wanted.
    install
        Without, only what is there is used.

    Returns
    -------
    dict
        The reason for each system that cannot be used.
    """
    wanted = [name for name in names if SYSTEMS[name].peer]
    reasons: dict[str, str] = {}
    if install and wanted and not python_of(folder).exists():
        print(f"making the environment {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], stdout=sys.stderr, check=False)
    there = versions(folder)
    failed: dict[str, str] = {}
    for name in wanted:
        package = SYSTEMS[name].packages[0]
        if package in there or package in failed:
            continue
        if not install:
            failed[package] = f"not installed in {folder}"
            continue
        print(f"installing {package}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [python_of(folder), "-m", "pip", "install", "--quiet",
             "--disable-pip-version-check", *ASKED[package]],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            failed[package] = "pip could not install it: " + (
                lines[-1] if lines else "no reason given"
            )
    for name in wanted:
        if SYSTEMS[name].packages[0] in failed:
            reasons[name] = failed[SYSTEMS[name].packages[0]]
    return reasons

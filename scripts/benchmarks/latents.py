"""The latents of the set *real*: CIFAR-10 through a model trained here, or given ones."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np

from benchmarks.runs import ROOT, say

ARCHIVE = ROOT.parent / "shared" / "data" / "cifar10-train.tar.gz"


def get(
    folder: Path, given: list[Path] | None, archive: Path, model: Path | None, minutes: float
) -> tuple[Path, Path]:
    """``.npy`` files of z_mean and z_log_var.

    Parameters
    ----------
    folder
        Where they are made, and found by the next run.
    given
        Two such files; then nothing is done.
    archive
        Of images in a folder a class, to train on and to encode.
    model
        A model folder; without, one is trained for so many `minutes`.
    """
    if given is not None:
        return given[0], given[1]
    files = folder / "z_mean.npy", folder / "z_log_var.npy"
    if all(file.exists() for file in files):
        return files
    if not archive.exists():
        sys.exit(f"{archive} is not there: give --archive, or --latents Z_MEAN.npy Z_LOG_VAR.npy")
    folder.mkdir(parents=True, exist_ok=True)
    images = folder / "images"
    if not images.exists():
        say(f"unpacking {archive}")
        unpacked = folder / "images.part"
        with tarfile.open(archive) as tar:
            # The first 3.10 and 3.11 have no filters.
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(unpacked, **safe)
        unpacked.rename(images)
    trained, store = model or folder / "model", folder / "images.ldb"
    size = ("--latent-dim", "64", "--minutes", str(minutes))
    if not trained.exists():
        _latentdb("train", images, "--out", trained, *size, "--quiet")
    _latentdb("index", store, images, "--model", trained, "--quiet")
    from latentdb import LatentDB

    with LatentDB.open(store) as db:
        ids = db.ids()
        log_vars = db.log_vars(ids)
        if log_vars is None:
            sys.exit(f"{trained} gives no z_log_var: without there is no noise to repeat with")
        np.save(files[0], db.vectors(ids))
        np.save(files[1], log_vars)
    return files


def _latentdb(*words: object) -> None:
    command = [str(Path(sys.executable).parent / "latentdb"), *map(str, words)]
    say(" ".join(command))
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} gave {done.returncode}")

"""Index images into the latents of a variational autoencoder, query and decode them.

>>> from latentdb import LatentDB
>>> db = LatentDB.create("photos.ldb", model="my-model")      # doctest: +SKIP
>>> db.index_images("photos")                                 # doctest: +SKIP
>>> db.query("photos/cat.jpg", k=5)                           # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentdb.answers import Average, Info, Match, Matches
    from latentdb.card import ModelCard
    from latentdb.codec import Codec
    from latentdb.compaction import CompactReport
    from latentdb.database import LatentDB
    from latentdb.errors import LatentDBError
    from latentdb.folders import BadFile
    from latentdb.images import Preprocessing
    from latentdb.importing import ImportReport
    from latentdb.ingest import IndexReport
    from latentdb.progress import Progress
    from latentdb.training import TrainReport, train_model
    from latentdb.verify import Problem, VerifyReport

__all__ = [
    "LatentDB",
    "Match",
    "Matches",
    "Average",
    "Info",
    "IndexReport",
    "ImportReport",
    "CompactReport",
    "VerifyReport",
    "Problem",
    "Codec",
    "ModelCard",
    "Preprocessing",
    "train_model",
    "TrainReport",
    "Progress",
    "BadFile",
    "LatentDBError",
    "__version__",
]

_HOMES = {
    "LatentDB": "database",
    "Match": "answers",
    "Matches": "answers",
    "Average": "answers",
    "Info": "answers",
    "IndexReport": "ingest",
    "ImportReport": "importing",
    "CompactReport": "compaction",
    "VerifyReport": "verify",
    "Problem": "verify",
    "Progress": "progress",
    "Codec": "codec",
    "ModelCard": "card",
    "Preprocessing": "images",
    "BadFile": "folders",
    "train_model": "training",
    "TrainReport": "training",
    "LatentDBError": "errors",
}


def __getattr__(name: str) -> Any:
    # Numpy alone takes longer to import than `latentdb --help` may take.
    if name == "__version__":
        from importlib.metadata import version

        return version("latentdb")
    if name in _HOMES:
        return getattr(import_module(f"latentdb.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'latentdb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

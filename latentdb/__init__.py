"""Index images into the latents of a variational autoencoder, query and decode them.

>>> from latentdb import LatentDB
>>> db = LatentDB.create("photos.ldb", "my-model")
>>> db.index_images("photos")
>>> db.query("new.jpg", k=5)
>>> db.decode(["cat/003.png"])

See `help(latentdb.LatentDB)`; ``latentdb --help`` shows the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentdb.base.errors import LatentDBError
    from latentdb.base.progress import Progress
    from latentdb.database import LatentDB
    from latentdb.exchange.importing import ImportReport
    from latentdb.images.decode import Preprocessing
    from latentdb.images.discover import BadFile
    from latentdb.ingest.report import IndexReport
    from latentdb.model.codec import Codec
    from latentdb.model.config import ModelConfig, ModelOptions
    from latentdb.model.outcome import TrainReport
    from latentdb.model.training import train_model
    from latentdb.row_access import RowView
    from latentdb.search.results import Average, Info, Match, Matches, Row
    from latentdb.store.compaction import CompactReport
    from latentdb.store.versions import Version
    from latentdb.verify import Problem, VerifyReport

__all__ = [
    "LatentDB",
    "Row",
    "RowView",
    "Match",
    "Matches",
    "Average",
    "Info",
    "IndexReport",
    "ImportReport",
    "CompactReport",
    "Version",
    "VerifyReport",
    "Problem",
    "Codec",
    "ModelConfig",
    "ModelOptions",
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
    "Row": "search.results",
    "RowView": "row_access",
    "Match": "search.results",
    "Matches": "search.results",
    "Average": "search.results",
    "Info": "search.results",
    "IndexReport": "ingest.report",
    "ImportReport": "exchange.importing",
    "CompactReport": "store.compaction",
    "Version": "store.versions",
    "VerifyReport": "verify",
    "Problem": "verify",
    "Progress": "base.progress",
    "Codec": "model.codec",
    "ModelConfig": "model.config",
    "ModelOptions": "model.config",
    "Preprocessing": "images.decode",
    "BadFile": "images.discover",
    "train_model": "model.training",
    "TrainReport": "model.outcome",
    "LatentDBError": "base.errors",
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

"""What the tests of the planner and of the reading threads share."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentdb.database import LatentDB
from latentdb.images.decode import Preprocessing
from latentdb.ingest.labels import FolderLabels
from latentdb.ingest.planner import Batch, ImagePlanner

SPEC = Preprocessing(16, 16, 3)


@pytest.fixture
def empty(tmp_path: Path) -> LatentDB:
    return LatentDB.create(tmp_path / "empty.ldb", dim=4)


def planner_of(db: LatentDB, *sources: Path, labels: bool = False) -> ImagePlanner:
    return ImagePlanner(
        db._snapshot(),
        SPEC,
        matcher=None,
        labels=FolderLabels([str(source) for source in sources]) if labels else None,
        rehash=False,
        sources=sources,
    )


def ids(batch: Batch) -> list[str]:
    return [row.file.id for row in batch.images]

"""What the tests of the planner and of the reading threads share."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentdb.database import LatentDB
from latentdb.images.decode import Preprocessing
from latentdb.images.selection import EVERYTHING
from latentdb.ingest.labels import FolderLabels
from latentdb.ingest.planner import Batch, ImagePlanner
from latentdb.ingest.roots import plan_roots

SPEC = Preprocessing(16, 16, 3)


@pytest.fixture
def empty(tmp_path: Path) -> LatentDB:
    return LatentDB.create(tmp_path / "empty.ldb", dim=4)


def planner_of(db: LatentDB, *sources: Path, labels: bool = False) -> ImagePlanner:
    paths = [str(source) for source in sources]
    plan = plan_roots(db._snapshot(), paths, EVERYTHING)
    return ImagePlanner(db._snapshot(), SPEC, plan, labels=FolderLabels(paths) if labels else None)


def ids(batch: Batch) -> list[str]:
    return [row.file.id for row in batch.images]

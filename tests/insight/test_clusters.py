"""Clusters of a store: planted ones are found, described, and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentdb import LatentDB
from latentdb.base.errors import InvalidInputError


def planted(path: Path, each: int = 60, groups: int = 4) -> LatentDB:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(groups), each + 5 * np.arange(groups))
    vectors = (30 * np.eye(groups, 8)[group] + rng.normal(size=(len(group), 8))).astype(np.float32)
    names = [f"g{number}/{index}" for index, number in enumerate(group.tolist())]
    labels = [f"kind{number}" for number in group.tolist()]
    labels[0] = "kind3"
    db = LatentDB.create(path, dim=8)
    half = len(names) // 2
    db.add(names[:half], vectors[:half], metadata={"label": labels[:half]})
    db.add(names[half:], vectors[half:], metadata={"label": labels[half:]})
    return db


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_planted_clusters_are_found(tmp_path: Path, metric: str) -> None:
    with planted(tmp_path / "a.ldb") as db:
        found = db.cluster(4, metric=metric)
        assert [cluster.size for cluster in found.clusters] == [75, 70, 65, 60]
        assert [cluster.label for cluster in found.clusters] == ["kind3", "kind2", "kind1", "kind0"]
        assert [cluster.purity for cluster in found.clusters] == [1, 1, 1, pytest.approx(59 / 60)]
        assert found.purity == pytest.approx(269 / 270)
        for cluster in found.clusters:
            members = db.ids(found.rows[found.assignment == cluster.number])
            assert {cluster.medoid, *cluster.nearest} <= set(members)
            assert len(cluster.nearest) == 8
            mean = db.vectors(members).mean(axis=0)
            np.testing.assert_allclose(found.means[cluster.number], mean, rtol=1e-5, atol=1e-5)


def test_the_medoid_is_the_row_nearest_to_the_centre(tmp_path: Path) -> None:
    with planted(tmp_path / "a.ldb") as db:
        found = db.cluster(4)
        for cluster in found.clusters:
            members = db.ids(found.rows[found.assignment == cluster.number])
            gaps = np.linalg.norm(db.vectors(members) - found.means[cluster.number], axis=1)
            order = np.argsort(gaps)
            assert members[order[0]] == cluster.medoid
            assert cluster.spread == pytest.approx(gaps.mean(), rel=1e-3)


def test_deleted_and_unselected_rows_are_in_no_cluster(tmp_path: Path) -> None:
    with planted(tmp_path / "a.ldb") as db:
        db.delete(where='label == "kind1"')
        found = db.cluster(2, where='label != "kind2"')
        assert {cluster.label for cluster in found.clusters} == {"kind0", "kind3"}


def test_what_cannot_be_clustered(tmp_path: Path) -> None:
    with planted(tmp_path / "a.ldb") as db:
        with pytest.raises(InvalidInputError, match=r"300 clusters .* 270 rows: give 1 to 270"):
            db.cluster(300)
        with pytest.raises(InvalidInputError, match="no metadata column 'kind': this store has"):
            db.cluster(2, label="kind")


def test_clusters_are_drawn(store: Path, tmp_path: Path) -> None:
    with LatentDB.open(store) as db:
        found = db.cluster(3, out=tmp_path / "c.png")
        assert sum(cluster.size for cluster in found.clusters) == len(db)
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.height > 3 * 96

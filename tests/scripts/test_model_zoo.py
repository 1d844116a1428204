"""Model files of many makes, by the code of scripts/model_zoo: taken exactly, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.honest import NEW, OLD, tf_keras_version
from zoo.hostile import HOSTILE
from zoo.kinds import Kind, attempt

MADE = [kind for kind in (*NEW, *HOSTILE) if kind.quick]


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.name)
def test_a_model_file_is_taken_exactly_or_refused(kind: Kind, tmp_path: Path) -> None:
    outcome = attempt(kind, tmp_path)
    assert outcome.good, outcome.told


@pytest.mark.skipif(tf_keras_version() is None, reason="tf-keras is not installed")
@pytest.mark.parametrize("kind", OLD, ids=lambda kind: kind.name)
def test_old_formats_of_tf_keras(kind: Kind, tmp_path: Path) -> None:
    outcome = attempt(kind, tmp_path)
    assert outcome.good, outcome.told

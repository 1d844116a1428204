"""The model files of scripts/model_zoo are converted exactly, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.case import Case, attempt
from zoo.honest import NEW, OLD, tf_keras_version
from zoo.hostile import HOSTILE

QUICK = [case for case in (*NEW, *HOSTILE) if case.quick]


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_a_model_file_is_converted_exactly_or_refused(case: Case, tmp_path: Path) -> None:
    outcome = attempt(case, tmp_path)
    assert outcome.passed, outcome.result


@pytest.mark.skipif(tf_keras_version() is None, reason="tf-keras is not installed")
@pytest.mark.parametrize("case", OLD, ids=lambda case: case.name)
def test_old_formats_of_tf_keras(case: Case, tmp_path: Path) -> None:
    outcome = attempt(case, tmp_path)
    assert outcome.passed, outcome.result

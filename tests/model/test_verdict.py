"""The verdict on a model: its line, and what it warns of."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from latentdb.images.decode import Preprocessing
from latentdb.model.config import ModelConfig
from latentdb.model.verdict import Verdict, verdict_of

GOOD = Verdict(21.44, 20.91, 12.4, 0.612, 0.48, "l2", 64, 64)


def config(about: dict[str, Any]) -> ModelConfig:
    return ModelConfig(Preprocessing(8, 8, 3), 64, "v2:e", "v2:d", has_z_log_var=True, about=about)


def test_a_line_against_the_baselines() -> None:
    assert GOOD.line == (
        "reconstructions 21.4 dB (PCA-64 20.9, mean image 12.4); "
        "label-free neighbour agreement .61 (PCA .48)"
    )
    cosine = replace(GOOD, metric="centered_cosine")
    assert cosine.line.endswith("agreement .61 by centered_cosine (PCA .48)")
    assert replace(GOOD, agreement=None).line.endswith("mean image 12.4)")
    assert GOOD.warnings == ()


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"psnr": 12.4, "active_dims": 0}, "posterior collapse: none of 64 dimensions varies"),
        ({"psnr": 13.0, "pca": 13.2}, r"mean image \(13.0 against 12.4 dB\): train for more"),
        ({"active_dims": 63}, "1 dimension of 64 is dead, equal for all images: use a latent size"),
        ({"active_dims": 60}, "4 dimensions of 64 are dead, .* latent size of 60"),
        ({"psnr": 19.0, "agreement": 0.4}, "worse than principal components .* preset fast"),
    ],
)
def test_what_is_wrong_is_a_warning(changes: dict[str, Any], warning: str) -> None:
    (found,) = replace(GOOD, **changes).warnings
    assert re.search(warning, found)


def test_fewer_db_for_better_neighbours_are_no_warning() -> None:
    assert replace(GOOD, psnr=19.0).warnings == ()


def test_it_is_read_from_the_config_and_a_strange_one_has_none() -> None:
    about = {
        "validation_psnr_db": 21.44,
        "baselines_psnr_db": {"pca": 20.91, "mean_image": 12.4},
        "neighbour_agreement": {"l2": 0.5, "centered_cosine": 0.612, "pca": 0.48},
        "metric": "centered_cosine",
        "active_dims": 64,
    }
    assert verdict_of(config(about)) == replace(GOOD, metric="centered_cosine")
    assert verdict_of(config({})) is None
    assert verdict_of(config(about | {"baselines_psnr_db": [1]})) is None
    assert verdict_of(config(about | {"validation_psnr_db": "nan"})) is None
    exact = verdict_of(config(about | {"validation_psnr_db": float("inf")}))
    assert exact is not None
    assert exact.line.startswith("reconstructions inf dB")
    old = verdict_of(config(about | {"neighbour_agreement": None, "active_dims": "all"}))
    assert old is not None
    assert (old.agreement, old.active_dims) == (None, None)

"""The configuration of a model as JSON, which may be a stranger's."""

from __future__ import annotations

import json

import pytest

from latentdb.base.errors import ModelError
from latentdb.images.decode import Preprocessing
from latentdb.model.config import ModelConfig


def test_it_reads_what_it_wrote() -> None:
    config = ModelConfig(Preprocessing(16, 16, 3), 8, "e" * 16, None, False, {"seed": 1})
    assert ModelConfig.from_json(config.to_json(), "model.json") == config


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "[" * 100_000, "9" * 5000, json.dumps({"a\nb": 1})]
)
def test_what_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ModelError, match=r"^model\.json is not a latentdb model config: ") as error:
        ModelConfig.from_json(text, "model.json")
    assert "\n" not in str(error.value)

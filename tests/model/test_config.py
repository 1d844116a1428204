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


def test_a_model_of_an_earlier_version_reads_images_as_it_did() -> None:
    config = ModelConfig(Preprocessing(16, 16, 3), 8, "e" * 16, None, False)
    text = config.to_json()
    record = json.loads(text)["preprocessing"]
    assert sorted(record) == ["channels", "height", "pixel_range", "resize", "width"]
    again = ModelConfig.from_json(text, "model.json")
    assert (again.preprocessing.icc, again.preprocessing.background) == ("ignore", "white")
    assert again.to_json() == text


@pytest.mark.parametrize("change", [{"background": "pink"}, {"background": 5}, {"icc": []}])
def test_an_unknown_rule_in_a_record_is_refused(change: dict[str, object]) -> None:
    values = json.loads(ModelConfig(Preprocessing(16, 16, 3), 8, "e", None, False).to_json())
    values["preprocessing"] |= change
    with pytest.raises(ModelError, match="not a latentdb model config"):
        ModelConfig.from_json(json.dumps(values), "model.json")

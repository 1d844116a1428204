"""Conditional VAEs: exact beside keras, and rows are encoded and decoded under their own class."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentdb.base.condition import INDEX, NUMBER, ONE_HOT, ConditionInput
from latentdb.base.errors import InvalidInputError, ModelError
from latentdb.kerasfile.runtime import load_keras
from latentdb.model.codec import Codec
from latentdb.model.condition import Condition
from latentdb.model.config import ModelConfig, ModelOptions
from tests.conftest import SIZE

CLASSES = ("disc", "square")
OPTIONS = ModelOptions(condition="label", categories=CLASSES, pixel_range="0..1")
LABELS = [0, 1, 1, 0, 1]
METADATA = [{"label": CLASSES[number]} for number in LABELS]


def pixels(count: int = len(LABELS)) -> Any:
    return np.random.default_rng(2).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def loaded(path: Path) -> Any:
    return load_keras().saving.load_model(path, compile=False)


def as_pixels(images: Any) -> Any:
    return np.rint(np.asarray(images) * 255)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("encoder", ["encoder", "plain"])
@pytest.mark.parametrize("decoder", ["decoder", "embedding"])
def test_results_are_those_of_keras(
    conditional: Path, encoder: str, decoder: str, compiled: bool
) -> None:
    files = [conditional / f"{name}.keras" for name in (encoder, decoder)]
    codec = Codec.from_files(*files, options=OPTIONS)
    if compiled:
        codec = codec.compiled()
        assert codec._compiled.is_complete
    one_hot = np.eye(2, dtype=np.float32)[LABELS]
    values = pixels() / np.float32(255)
    expected = loaded(files[0])([values, one_hot] if encoder == "encoder" else values)
    z_mean, z_log_var = codec.encode(pixels(), METADATA)
    assert np.allclose(z_mean, expected[0], atol=2e-6)
    assert z_log_var is not None
    assert np.allclose(z_log_var, expected[1], atol=2e-6)
    given_labels = one_hot if decoder == "decoder" else np.array(LABELS)
    images = loaded(files[1])([z_mean, given_labels])
    assert np.abs(codec.decode(z_mean, METADATA) - as_pixels(images)).max() <= 1
    other = codec.with_condition("disc").decode(z_mean[1:2])  # of a square
    assert np.abs(other - as_pixels(images)[1:2]).max() > 10
    again = Codec.from_bytes(
        ModelConfig.from_json(codec.config.to_json(), "it"),
        codec.files["encoder.keras"],
        codec.files["decoder.keras"],
        name="the files",
    )
    assert np.array_equal(again.decode(z_mean, METADATA), codec.decode(z_mean, METADATA))


def test_a_whole_vae_in_one_flat_graph(tmp_path: Path) -> None:
    keras = load_keras()
    layers = keras.layers
    image, label = keras.Input((64,), name="x"), keras.Input((3,), name="label")
    z_mean = layers.Dense(4, name="z_mean")(layers.Concatenate()([image, label]))
    z_log_var = layers.Dense(4, name="z_log_var")(layers.Concatenate()([image, label]))
    z = layers.Lambda(lambda pair: pair[0] + pair[1] * 0, name="z")([z_mean, z_log_var])
    last = layers.Dense(64, activation="sigmoid")
    keras.Model([image, label], last(layers.Concatenate()([z, label]))).save(tmp_path / "v.keras")
    codec = Codec.from_files(tmp_path / "v.keras", options=ModelOptions(condition="digit"))
    assert codec.has_decoder
    condition = codec.config.condition
    assert condition == Condition("digit", ("0", "1", "2"), ONE_HOT, ONE_HOT)
    labels = [2, 0, 1]
    given_images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    flat = given_images.reshape(3, 64) / np.float32(255)
    expected = keras.Model([image, label], z_mean)([flat, one_hot])
    found, _ = codec.encode(given_images, [{"digit": number} for number in labels])
    assert np.allclose(found, expected, atol=1e-6)
    decoded = codec.decode(found, [{"digit": float(number)} for number in labels])
    images = last(np.concatenate([found, one_hot], axis=1))
    assert np.abs(decoded.reshape(3, 64) - as_pixels(images)).max() <= 1


def test_a_number_is_a_condition(tmp_path: Path) -> None:
    keras = load_keras()
    latent, angle = keras.Input((4,)), keras.Input((1,), name="angle")
    image = keras.Input((8, 8, 1))
    keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(image))).save(
        tmp_path / "e.keras"
    )
    joined = keras.layers.Concatenate()([latent, angle])
    decoder = keras.Model([latent, angle], keras.layers.Dense(64, activation="sigmoid")(joined))
    decoder.save(tmp_path / "d.keras")
    codec = Codec.from_files(
        tmp_path / "e.keras", tmp_path / "d.keras", options=ModelOptions(condition="angle")
    )
    assert codec.config.condition == Condition("angle", (), None, NUMBER)
    latents = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    expected = as_pixels(decoder([latents, np.array([[0.5], [-2]], np.float32)]))
    found = codec.decode(latents, [{"angle": 0.5}, {"angle": "-2"}])
    assert np.abs(found.reshape(2, 64) - expected).max() <= 1
    for wrong in ("left", float("nan"), 1e300):
        with pytest.raises(InvalidInputError, match="expected a number"):
            codec.with_condition(wrong)


def test_the_condition_is_part_of_the_fingerprint(conditional: Path) -> None:
    files = conditional / "plain.keras", conditional / "decoder.keras"
    one = Codec.from_files(*files, options=OPTIONS).config
    other = Codec.from_files(*files, options=replace(OPTIONS, categories=CLASSES[::-1])).config
    assert one.encoder_fingerprint == other.encoder_fingerprint  # which has no condition
    assert one.decoder_fingerprint != other.decoder_fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition": None, "categories": None}, "2 inputs.*--condition KEY names"),
        ({"condition": None}, "give --condition KEY"),
        ({"categories": ("a", "b", "c")}, "2 classes, for 3 categories: give --categories"),
        ({"categories": ("a", "a")}, "not all different"),
        ({"condition": "no key\n"}, "key"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    conditional: Path, options: dict[str, Any], message: str
) -> None:
    files = conditional / "encoder.keras", conditional / "decoder.keras"
    with pytest.raises((ModelError, InvalidInputError), match=message) as caught:
        Codec.from_files(*files, options=replace(OPTIONS, **options))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_second_input_has_no_condition(conditional: Path) -> None:
    with pytest.raises(ModelError, match="neither encoder nor decoder has a second input"):
        Codec.from_files(conditional / "plain.keras", options=OPTIONS)


def test_a_decoder_alone_asks_for_the_key(conditional: Path) -> None:
    files = conditional / "plain.keras", conditional / "embedding.keras"
    with pytest.raises(ModelError, match=r"expected a decoder with one input; .*--condition KEY"):
        Codec.from_files(*files)


def test_a_condition_that_is_an_image_is_refused(tmp_path: Path) -> None:
    keras = load_keras()
    image, mask = keras.Input((8, 8, 1)), keras.Input((8, 4), name="mask")
    flat = [keras.layers.Flatten()(one) for one in (image, mask)]
    mu = keras.layers.Dense(3, name="mu")(keras.layers.Concatenate()(flat))
    keras.Model([image, mask], mu).save(tmp_path / "e.keras")
    with pytest.raises(ModelError, match=r"'mask' has shape \[8, 4\]: expected a condition"):
        Codec.from_files(tmp_path / "e.keras", options=ModelOptions(condition="label"))


def test_missing_and_unknown_values_name_the_accepted_ones(conditional: Path) -> None:
    files = conditional / "encoder.keras", conditional / "decoder.keras"
    codec = Codec.from_files(*files, options=OPTIONS)
    latents = np.zeros((1, 4), np.float32)
    with pytest.raises(InvalidInputError, match=r"no 'label' in the metadata.* one of disc, squ"):
        codec.encode(pixels(1), [{"other": 1}])
    with pytest.raises(InvalidInputError, match=r"'star' is no condition .* one of disc, square"):
        codec.decode(latents, [{"label": "star"}])
    with pytest.raises(InvalidInputError, match=r"give --condition VALUE.* one of disc, square"):
        codec.decode(latents)
    with pytest.raises(InvalidInputError, match="one of disc, square"):
        codec.with_condition("star")
    with pytest.raises(ModelError, match="cannot be drawn"):
        codec.plot(conditional / "model.png")


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=30, unique=True),
    st.sampled_from([ONE_HOT, INDEX]),
    st.data(),
)
def test_records_come_back_and_classes_are_told_apart(
    names: list[str], form: str, data: st.DataObject
) -> None:
    made = Condition.of("key", names, ConditionInput(form, len(names)), None)
    assert Condition.from_record(json.loads(json.dumps(made.to_record()))) == made
    number = data.draw(st.integers(0, len(names) - 1))
    joined = made.input("encoder", np.zeros((1, 3), np.float32), [{"key": names[number]}])
    own = joined[0, 3:]
    assert (own == number if form == INDEX else own == np.eye(len(names))[number]).all()
    assert made.input("decoder", joined, None) is joined


@pytest.mark.parametrize(
    "change",
    [
        {"categories": []}, {"categories": [1]}, {"key": ""}, {"encoder": "two"},
        {"encoder": None, "decoder": None}, {"decoder": NUMBER}, {"more": 1},
    ],
)  # fmt: skip
def test_a_forged_record_is_refused(conditional: Path, change: dict[str, Any]) -> None:
    files = conditional / "encoder.keras", conditional / "decoder.keras"
    values = json.loads(Codec.from_files(*files, options=OPTIONS).config.to_json())
    values["condition"] |= change
    with pytest.raises(ModelError, match=r"model\.json is not a latentdb model config"):
        ModelConfig.from_json(json.dumps(values), "model.json")


def test_classes_of_a_few_kinds_are_one() -> None:
    made = Condition.of("key", None, ConditionInput(INDEX, 4), ConditionInput(ONE_HOT, 4))
    assert [made.parse(value) for value in (3, 3.0, "3", np.int64(3))] == [3.0] * 4
    yes = Condition.of("key", ["false", "true"], ConditionInput(ONE_HOT, 2), None)
    assert yes.parse(True) == 1.0
    fewer = Condition.of("key", ["a", "b"], ConditionInput(INDEX, 4), None)
    assert fewer.categories == ("a", "b")  # a table may have rows to spare
    with pytest.raises(InvalidInputError, match="do not say how many classes"):
        Condition.of("key", None, ConditionInput(INDEX), None)
    assert pickle.loads(pickle.dumps(made)) == made

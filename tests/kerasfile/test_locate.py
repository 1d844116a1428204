"""Where z_mean, z_log_var and the decoder are in a model."""

from __future__ import annotations

from typing import Any

import pytest

from latentdb.base.errors import ModelError, UntrustedModelError
from latentdb.kerasfile import locate as halves
from latentdb.kerasfile.locate import find
from tests.kerasfile.test_graph import encoder, entry, layer, model, nested, read, whole


@pytest.mark.parametrize(
    "name",
    ["z_mean", "mu", "z_mu", "mean", "encoder_mean", "dense_mu", "fc_mu", "codings_mean",
     "latentMean", "z_mean_3", "Z-MEAN", "mu_layer", "zmean"],
)  # fmt: skip
def test_names_of_z_mean(name: str) -> None:
    assert halves.is_mean(name)
    assert not halves.is_log_var(name)


@pytest.mark.parametrize("name", ["mean_pooling", "image_mean", "dense", "multiply", "z", "mut"])
def test_names_of_other_layers(name: str) -> None:
    assert not halves.is_mean(name)


@pytest.mark.parametrize(
    "name", ["z_log_var", "log_var", "logvar", "z_logvar", "encoder_log_variance", "logVar_2"]
)
def test_names_of_z_log_var(name: str) -> None:
    assert halves.is_log_var(name)
    assert not halves.is_mean(name)
    assert not halves.is_spread(name)


@pytest.mark.parametrize("name", ["sigma", "z_log_sigma", "std", "z_std_dev", "log_std", "z_var"])
def test_names_that_leave_a_doubt(name: str) -> None:
    assert halves.is_spread(name)
    assert not halves.is_log_var(name)


def found(config: dict[str, Any], **named: str) -> list[str | None]:
    told = find(read(config), **named)
    parts = (told.z_mean, told.z_log_var, told.decoder, told.latent)
    return [None if part is None else part.shown for part in parts]


def test_an_encoder_has_no_decoder() -> None:
    assert found(encoder()) == ["z_mean", "z_log_var", None, None]


def test_both_halves_of_a_nested_vae() -> None:
    expected = ["encoder/z_mean", "encoder/z_log_var", "decoder/pixels", "decoder/z_in"]
    told = found(whole())
    told[2] = "decoder/pixels" if told[2] == "pixels" else told[2]
    assert told == expected


def plain(names: tuple[str, str], outputs: list[str], *more: Any) -> dict[str, Any]:
    layers = [entry(), layer("Flatten", "flat", "x"), layer("Dense", names[0], "flat"),
              layer("Dense", names[1], "flat"), layer("Lambda", "z", *names), *more]  # fmt: skip
    return model("m", layers, outputs)


def test_a_flat_vae_is_cut_behind_its_sampling() -> None:
    decoder = (layer("Dense", "up", "z"), layer("Reshape", "image", "up"))
    told = found(plain(("mu", "log_var"), ["image"], *decoder))
    assert told == ["mu", "log_var", "image", "z"]


def test_sampling_written_as_operations_is_cut_behind_them() -> None:
    layers = [entry(), layer("Dense", "mu", "x"), layer("Dense", "log_var", "x"),
              layer("Exp", "exp", "log_var"), layer("Noise", "noise", "mu"),
              layer("Multiply", "spread", "exp", "noise"), layer("Add", "plus", "mu", "spread"),
              layer("Dense", "image", "plus")]  # fmt: skip
    assert found(model("m", layers, ["image"])) == ["mu", "log_var", "image", "plus"]


def test_without_names_the_first_output_is_z_mean() -> None:
    told = find(read(plain(("a", "b"), ["a", "b", "z"])))
    assert (told.z_mean.shown, told.z_log_var and told.z_log_var.shown) == ("a", "b")
    assert told.notes == ("z_log_var is taken to be 'b', the output after z_mean",)


def test_a_name_counts_more_than_the_order() -> None:
    assert found(plain(("mu", "b"), ["z", "mu"]))[:2] == ["mu", None]


def test_without_names_or_order_the_candidates_are_listed() -> None:
    config = plain(("a", "b"), ["z"])
    with pytest.raises(UntrustedModelError, match=r"give --z-mean LAYER, one of a, b; or, if you"):
        find(read(config))
    assert found(config, z_mean="b")[:2] == ["b", None]
    assert found(config, z_mean="b", z_log_var="a")[:2] == ["b", "a"]
    with pytest.raises(ModelError, match="has no layer 'c': name one of a, b"):
        find(read(config), z_mean="c")


def test_several_names_are_asked_about() -> None:
    more = layer("Dense", "mean", "flat")
    with pytest.raises(ModelError, match=r"several layers may be z_mean; give .* one of mu, mean"):
        find(read(plain(("mu", "log_var"), ["z"], more)))


def test_a_doubtful_spread_is_left_out_and_told() -> None:
    for name in ("z_log_sigma", "std"):
        told = find(read(plain(("mu", name), ["mu", name])))
        assert told.z_log_var is None
        assert "give --z-log-var" in told.notes[0]


def test_a_mean_of_another_shape_is_its_output() -> None:
    layers = [entry(), layer("Conv2D", "mu", "x"), layer("Flatten", "flat", "mu")]
    assert found(model("encoder", layers, ["flat"]))[0] == "flat"


def test_an_autoencoder_without_sampling_is_cut_at_its_mean() -> None:
    layers = [entry(), layer("Dense", "mu", "x"), layer("Dense", "image", "mu")]
    assert found(model("m", layers, ["image"])) == ["mu", None, "image", "mu"]


def test_layers_of_one_name_in_two_models_are_told_apart_by_the_model() -> None:
    inner = model("encoder", [entry(), layer("Dense", "mu", "x")], ["mu"])
    other = model("critic", [entry(), layer("Dense", "mu", "x")], ["mu"])
    top = [entry("i"), nested(inner, "i"), nested(other, "i")]
    config = model("m", top, ["encoder"], "i")
    assert found(config)[0] == "encoder/mu"
    assert found(config, z_mean="critic/mu")[0] == "critic/mu"
    with pytest.raises(
        ModelError, match="more than one layer 'mu': name one of encoder/mu, critic/mu"
    ):
        find(read(config), z_mean="mu")


def test_a_class_without_its_layers_is_refused() -> None:
    with pytest.raises(UntrustedModelError, match="only the name of the class 'VAE'"):
        find(read({"class_name": "VAE", "config": {"name": "vae"}}))

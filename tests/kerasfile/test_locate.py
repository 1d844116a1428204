"""Where z_mean, z_log_var and the decoder are in a model."""

from __future__ import annotations

from typing import Any

import pytest

from latentdb.base.errors import ModelError, UntrustedModelError
from latentdb.kerasfile import locate
from latentdb.kerasfile.locate import find
from tests.kerasfile.test_graph import encoder, entry, layer, model, nested, read, whole


@pytest.mark.parametrize(
    "name",
    ["z_mean", "mu", "z_mu", "mean", "encoder_mean", "dense_mu", "fc_mu", "codings_mean",
     "latentMean", "z_mean_3", "Z-MEAN", "mu_layer", "zmean"],
)  # fmt: skip
def test_names_of_z_mean(name: str) -> None:
    assert locate.is_mean(name)
    assert not locate.is_log_var(name)


@pytest.mark.parametrize("name", ["mean_pooling", "image_mean", "dense", "multiply", "z", "mut"])
def test_names_of_other_layers(name: str) -> None:
    assert not locate.is_mean(name)


@pytest.mark.parametrize(
    "name", ["z_log_var", "log_var", "logvar", "z_logvar", "encoder_log_variance", "logVar_2"]
)
def test_names_of_z_log_var(name: str) -> None:
    assert locate.is_log_var(name)
    assert not locate.is_mean(name)
    assert not locate.is_scale(name)


@pytest.mark.parametrize("name", ["sigma", "z_log_sigma", "std", "z_std_dev", "log_std", "z_var"])
def test_names_of_other_scale_parameters(name: str) -> None:
    assert locate.is_scale(name)
    assert not locate.is_log_var(name)


def found(config: dict[str, Any], **named: str) -> list[str | None]:
    outputs = find(read(config), **named)
    tensors = (outputs.z_mean, outputs.z_log_var, outputs.decoder, outputs.latent)
    return [None if tensor is None else tensor.label for tensor in tensors]


def test_an_encoder_has_no_decoder() -> None:
    assert found(encoder()) == ["z_mean", "z_log_var", None, None]


def test_encoder_and_decoder_of_a_nested_vae() -> None:
    expected = ["encoder/z_mean", "encoder/z_log_var", "decoder/pixels", "decoder/z_in"]
    outputs = found(whole())
    outputs[2] = "decoder/pixels" if outputs[2] == "pixels" else outputs[2]
    assert outputs == expected


def plain(names: tuple[str, str], outputs: list[str], *more: Any) -> dict[str, Any]:
    layers = [entry(), layer("Flatten", "flat", "x"), layer("Dense", names[0], "flat"),
              layer("Dense", names[1], "flat"), layer("Lambda", "z", *names), *more]  # fmt: skip
    return model("m", layers, outputs)


def test_a_flat_vae_has_its_latent_behind_its_sampling() -> None:
    decoder = (layer("Dense", "up", "z"), layer("Reshape", "image", "up"))
    outputs = found(plain(("mu", "log_var"), ["image"], *decoder))
    assert outputs == ["mu", "log_var", "image", "z"]


def test_sampling_written_as_operations_has_its_latent_behind_them() -> None:
    layers = [entry(), layer("Dense", "mu", "x"), layer("Dense", "log_var", "x"),
              layer("Exp", "exp", "log_var"), layer("Noise", "noise", "mu"),
              layer("Multiply", "spread", "exp", "noise"), layer("Add", "plus", "mu", "spread"),
              layer("Dense", "image", "plus")]  # fmt: skip
    assert found(model("m", layers, ["image"])) == ["mu", "log_var", "image", "plus"]


def test_without_names_the_first_output_is_z_mean() -> None:
    outputs = find(read(plain(("a", "b"), ["a", "b", "z"])))
    assert (outputs.z_mean.label, outputs.z_log_var and outputs.z_log_var.label) == ("a", "b")
    assert outputs.notes == ("z_log_var is assumed to be 'b', the output after z_mean",)


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


def test_several_names_are_listed() -> None:
    more = layer("Dense", "mean", "flat")
    with pytest.raises(ModelError, match=r"several layers may be z_mean; give .* one of mu, mean"):
        find(read(plain(("mu", "log_var"), ["z"], more)))


def test_an_ambiguous_scale_is_not_used_and_noted() -> None:
    for name in ("z_log_sigma", "std"):
        outputs = find(read(plain(("mu", name), ["mu", name])))
        assert outputs.z_log_var is None
        assert "give --z-log-var" in outputs.notes[0]


def test_a_mean_of_another_shape_is_its_output() -> None:
    layers = [entry(), layer("Conv2D", "mu", "x"), layer("Flatten", "flat", "mu")]
    assert found(model("encoder", layers, ["flat"]))[0] == "flat"


def test_an_autoencoder_without_sampling_has_its_mean_as_latent() -> None:
    layers = [entry(), layer("Dense", "mu", "x"), layer("Dense", "image", "mu")]
    assert found(model("m", layers, ["image"])) == ["mu", None, "image", "mu"]


def test_layers_of_one_name_in_two_models_are_named_with_their_model() -> None:
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

"""The convolutional VAE: it starts as the principal components of the images."""

from __future__ import annotations

import numpy as np
import pytest

from latentdb.base.errors import InvalidInputError
from latentdb.model.pca import area_pooled, fit_pca
from tests.model.test_pca import correlated


@pytest.mark.parametrize("shape", [(16, 16, 3), (28, 28, 1), (7, 9, 1), (48, 20, 3)])
@pytest.mark.parametrize("convolutions", [True, False])
def test_the_start_reconstructs_as_principal_components(
    shape: tuple[int, int, int], convolutions: bool
) -> None:
    from latentdb.model.network import ConvNetwork, Design

    images = correlated(120, shape)
    training, held_out = images[20:], images[:20].reshape(20, -1) / 255
    pca = fit_pca(training, 6)
    vae = ConvNetwork(Design(shape, 6, convolutions=convolutions), pca, beta=0.005, seed=0).vae
    flat = training.reshape(100, -1) / 255
    mean = flat.mean(axis=0)
    directions = np.linalg.svd(flat - mean, full_matrices=False)[2][:6]
    expected = np.clip(mean + (held_out - mean) @ directions.T @ directions, 0, 1)
    z_mean, z_log_var, _ = vae.encoder(images[:20].astype(np.float32) / 255)
    rebuilt = np.asarray(vae.decoder(z_mean)).reshape(20, -1)
    np.testing.assert_allclose(rebuilt, expected, atol=2e-4)
    assert float(np.max(z_log_var)) < 0


def test_the_classic_names_and_shapes() -> None:
    from latentdb.model.network import ConvNetwork, Design

    pca = fit_pca(correlated(30, (32, 16, 3)), 8)
    design = Design((32, 16, 3), 8, semantic_dims=2)
    vae = ConvNetwork(design, pca, beta=0.1, seed=0).vae
    assert vae.encoder.layers[0].name == "encoder_input"
    assert list(vae.encoder.output_names) == ["z_mean", "z_log_var", "z"]
    assert [output.shape for output in vae.encoder.outputs] == [(None, 8)] * 3
    assert vae.decoder.inputs[0].name == "z_sampling"
    assert vae(np.zeros((2, 32, 16, 3), np.float32)).shape == (2, 32, 16, 3)


def test_large_images_are_reduced_and_enlarged() -> None:
    from latentdb.model.network import ConvNetwork, Design, pooling

    shape = 128, 96, 3
    assert pooling(shape) == 2
    down, across = np.linspace(0, 1, 128)[:, None, None], np.linspace(0, 1, 96)[:, None]
    random = np.random.default_rng(0)
    corners = random.integers(60, 200, (30, 3, 1, 1, 3))
    smooth = corners[:, 0] + 50 * down * (corners[:, 1] > 128) - 50 * across * (corners[:, 2] > 128)
    images = smooth.astype(np.uint8)
    pca = fit_pca(area_pooled(images, 2), 9)
    vae = ConvNetwork(Design(shape, 9), pca, beta=0.005, seed=0).vae
    floats = images.astype(np.float32) / 255
    rebuilt = np.asarray(vae.decoder(vae.encoder(floats)[0]))
    assert np.abs(rebuilt - floats).max() < 0.02


def test_rescaling_leaves_reconstructions() -> None:
    from latentdb.model.network import ConvNetwork, Design

    images = correlated(40, (16, 16, 3))
    design = Design((16, 16, 3), 6, semantic_dims=2)
    network = ConvNetwork(design, fit_pca(images, 6), beta=0.1, seed=0)
    random = np.random.default_rng(0)
    for layer in network.layers.values():
        layer.set_weights(
            [w + random.uniform(0, 0.1, w.shape).astype("f4") for w in layer.get_weights()]
        )
    floats = images.astype(np.float32) / 255
    encoder, decoder = network.vae.encoder, network.vae.decoder
    before = [np.asarray(part) for part in encoder(floats)[:2]]
    rebuilt = np.asarray(decoder(before[0]))
    factors = np.linspace(0.5, 2, 6).astype(np.float32)
    network.rescale(factors)
    after = [np.asarray(part) for part in encoder(floats)[:2]]
    np.testing.assert_allclose(after[0], before[0] * factors, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(after[1], before[1] + 2 * np.log(factors), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.asarray(decoder(after[0])), rebuilt, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "factor"),
    [((64, 64), 1), ((65, 65), 0), ((100, 60), 2), ((256, 192), 4), ((17, 3), 1)],
)
def test_the_factor_of_reduction(size: tuple[int, int], factor: int) -> None:
    from latentdb.model.network import pooling

    if factor:
        assert pooling((*size, 3)) == factor
    else:
        with pytest.raises(
            InvalidInputError, match=r"65x65 cannot be .* multiples of 2, such as 64x64"
        ):
            pooling((*size, 3))

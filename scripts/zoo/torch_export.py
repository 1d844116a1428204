"""Export small VAEs of six architectures with PyTorch, for scripts/torch_zoo."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import silu

# The exporter and the opset: torch has two exporters, and the old one writes the old opsets.
EXPORTS = (("script", 11), ("script", 17), ("dynamo", 18), ("dynamo", 20))


class Conv(nn.Module):
    def __init__(self, channels=3, norm=nn.BatchNorm2d):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 4, 2, 1), norm(8), nn.LeakyReLU(),
            nn.Conv2d(8, 16, 4, 2, 1), nn.SiLU(), nn.Flatten(),
        )  # fmt: skip
        self.mu, self.log_var = nn.Linear(256, 4), nn.Linear(256, 4)

    def forward(self, x):
        h = self.body(x)
        return self.mu(h), self.log_var(h)


class Sampled(Conv):
    def forward(self, x):
        mu, log_var = super().forward(x)
        return mu + torch.randn_like(mu) * torch.exp(log_var / 2), mu, log_var


class Sigma(Conv):
    def forward(self, x):
        mu, log_var = super().forward(x)
        return mu, torch.exp(log_var / 2)


class Decoder(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.dense = nn.Linear(4, 256)
        self.body = nn.Sequential(
            nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(8, channels, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, z):
        return self.body(self.dense(z).view(-1, 16, 4, 4))


class Spatial(nn.Module):
    """The parts of diffusers' AutoencoderKL: group norm, silu, attention, a spatial latent."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 8, 3, 2, 1)
        self.norm = nn.GroupNorm(4, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        h = silu(self.norm(self.first(x)))
        flat = h.flatten(2).transpose(1, 2)
        weights = (self.query(flat) @ self.key(flat).transpose(1, 2) / 4).softmax(-1)
        attended = (weights @ self.value(flat)).transpose(1, 2).reshape(-1, 16, 8, 8)
        return tuple(self.last(h + attended).chunk(2, 1))


def mlp(first, last):
    return [nn.Linear(first, 32), nn.GELU(), nn.Linear(32, last)]


def models():
    """Name, encoder, decoder, channels, and the encoder's output names."""
    enlarge = nn.Upsample(scale_factor=2, mode="nearest")
    spatial = nn.Sequential(
        nn.Conv2d(4, 16, 3, 1, 1), nn.GroupNorm(4, 16), nn.SiLU(), enlarge,
        nn.Conv2d(16, 16, 3, 1, 1), enlarge, nn.Conv2d(16, 3, 3, 1, 1),
    )  # fmt: skip
    yield "conv", Conv(), Decoder(), 3, ["mu", "logvar"]
    yield "sampled z first", Sampled(), Decoder(), 3, ["z", "mu", "logvar"]
    yield "sigma", Sigma(norm=nn.InstanceNorm2d), Decoder(), 3, ["loc", "scale"]
    yield "grey, unnamed", Conv(1), Decoder(1), 1, ["a", "b"]
    dense = nn.Sequential(nn.Flatten(), *mlp(256, 4)), nn.Sequential(*mlp(4, 256), nn.Sigmoid())
    yield "mlp", *dense, 1, ["embedding"]
    yield "spatial", Spatial(), spatial, 3, ["mean", "logvar"]


def export(model, values, path, names, exporter, opset):
    if exporter == "dynamo":
        more = {"dynamic_shapes": ({0: torch.export.Dim("n")},), "external_data": False}
    else:
        more = {"dynamic_axes": {name: {0: "n"} for name in names}}
    torch.onnx.export(
        model, (values,), str(path), input_names=names[:1], output_names=names[1:],
        opset_version=opset, dynamo=exporter == "dynamo", verbose=False, **more,
    )  # fmt: skip


def main(folder):
    torch.manual_seed(0)
    for name, encoder, decoder, channels, outputs in models():
        encoder.eval(), decoder.eval()
        images = torch.rand(5, channels, 16, 16)
        with torch.no_grad():
            results = encoder(images)
            results = results if isinstance(results, tuple) else (results,)
            z_mean = results[outputs.index("mu") if "mu" in outputs else 0]
            decoded = decoder(z_mean)
        for exporter, opset in EXPORTS:
            path = folder / f"{name}, {exporter} exporter, opset {opset}"
            path.mkdir()
            try:
                names = ["image", *outputs]
                export(encoder, images, path / "encoder.onnx", names, exporter, opset)
                export(decoder, z_mean, path / "decoder.onnx", ["z", "y"], exporter, opset)
            except torch.onnx.errors.OnnxExporterError as error:
                (path / "error.txt").write_text(type(error).__name__)
                continue
            np.savez(
                path / "torch.npz", images=images.numpy(), z_mean=z_mean.numpy(), decoded=decoded
            )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(Path(sys.argv[1]))

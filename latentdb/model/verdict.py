"""The verdict on a trained model: one line against baselines, and what to change.

It is read from `model.json`, where training records what it measured on held-out
images, so that a store can say it years later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentdb.ann.metrics import L2
from latentdb.base.wording import counted
from latentdb.model.config import ModelConfig

_CLEAR = 1.0  # dB above the mean image; of 8-bit noise alone a model has less


@dataclass(frozen=True)
class Verdict:
    """What a model was measured to be worth on held-out images.

    Attributes
    ----------
    psnr, pca, mean_image
        Mean PSNR in dB of its reconstructions, of those of as many principal
        components, and of the mean training image.
    agreement, pca_agreement
        Label-free neighbour agreement, of the metric it chooses: see
        `latentdb.model.label_free`.  None where too few images were held out.
    metric
        That metric.
    dims, active_dims
        Dimensions, and those whose z_mean varies; None where it was not measured.
    """

    psnr: float
    pca: float
    mean_image: float
    agreement: float | None
    pca_agreement: float | None
    metric: str
    dims: int
    active_dims: int | None

    @property
    def line(self) -> str:
        """One line: the model and its baselines."""
        text = (
            f"reconstructions {self.psnr:.1f} dB "
            f"(PCA-{self.dims} {self.pca:.1f}, mean image {self.mean_image:.1f})"
        )
        if self.agreement is not None and self.pca_agreement is not None:
            by = "" if self.metric == L2 else f" by {self.metric}"
            text += (
                f"; label-free neighbour agreement {_share(self.agreement)}{by} "
                f"(PCA {_share(self.pca_agreement)})"
            )
        return text

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the model, and what to change; a line each."""
        found = []
        if self.active_dims == 0:
            found.append(
                f"posterior collapse: none of {self.dims} dimensions varies, every image has the "
                "same latent: lower beta, or train for more minutes"
            )
        elif self.psnr < self.mean_image + _CLEAR:
            found.append(
                f"reconstructions are hardly better than the mean image ({self.psnr:.1f} against "
                f"{self.mean_image:.1f} dB): train for more minutes, lower beta, or use more "
                "latent dimensions"
            )
        if self.active_dims is not None and 0 < self.active_dims < self.dims:
            dead = self.dims - self.active_dims
            found.append(
                f"{counted(dead, 'dimension')} of {self.dims} {'is' if dead == 1 else 'are'} dead, "
                f"equal for all images: use a latent size of {self.active_dims}, or lower beta"
            )
        if self.psnr < self.pca - _CLEAR and not self._better_neighbours:
            found.append(
                f"the model is worse than principal components ({self.psnr:.1f} against "
                f"{self.pca:.1f} dB): train for more minutes, or use the preset fast"
            )
        return tuple(found)

    @property
    def _better_neighbours(self) -> bool:
        own, other = self.agreement, self.pca_agreement
        return own is not None and other is not None and own > other


def verdict_of(config: ModelConfig) -> Verdict | None:
    """The verdict on a model; None if it was not trained by latentdb, or before it had any."""
    about = config.about
    baselines, scores = _numbers(about, "baselines_psnr_db"), _numbers(about, "neighbour_agreement")
    metric = str(about.get("metric", L2))
    psnr = _number(about.get("validation_psnr_db"))
    pca, mean_image = baselines.get("pca"), baselines.get("mean_image")
    if psnr is None or pca is None or mean_image is None:
        return None
    active = about.get("active_dims")
    return Verdict(
        psnr,
        pca,
        mean_image,
        scores.get(metric),
        scores.get("pca"),
        metric,
        config.latent_dim,
        active if type(active) is int else None,
    )


def _numbers(about: Mapping[str, Any], key: str) -> dict[str, float]:
    """The numbers of an object in `about`, by name."""
    found = about.get(key)
    items = found.items() if isinstance(found, Mapping) else ()
    return {name: value for name, value in items if _number(value) is not None}


def _number(value: Any) -> float | None:
    """A number of a file that anyone may have written; of exact reconstructions it is infinite."""
    known = type(value) in (int, float) and not math.isnan(value)
    return float(value) if known else None


def _share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")

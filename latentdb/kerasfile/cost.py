"""What a network takes to compute: memory and time, refused before it is run."""

from __future__ import annotations

import math
from typing import Any

from latentdb.base.errors import ModelError
from latentdb.base.wording import quoted

MAX_TENSOR = 1 << 26  # numbers in one tensor of one image: 256 MiB of float32
MAX_TENSORS = 1 << 28  # numbers in all tensors of one image: 1 GiB
MAX_OPERATIONS = 1 << 36  # multiplications for one image; ResNet-152 at 224 px takes 2^33.4

Shape = tuple[int | None, ...]


class Cost:
    """Sums up what the tensors and layers of one network take for one image.

    Parameters
    ----------
    name
        The file, for errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = self._operations = 0

    def add_tensor(self, label: str, shape: Shape) -> None:
        """Count a tensor without its batch axis.

        Raises
        ------
        ModelError
            If it, or all so far, are too large.
        """
        numbers = math.prod(side or 1 for side in shape)
        self._numbers += numbers
        if numbers > MAX_TENSOR:
            raise ModelError(
                f"{self._name} is refused: {quoted(label)} gives {list(shape)} for one image, "
                f"at most {MAX_TENSOR:,} numbers"
            )
        if self._numbers > MAX_TENSORS:
            raise ModelError(
                f"{self._name} is refused: its tensors hold {self._numbers:,} numbers for one "
                f"image, at most {MAX_TENSORS:,}"
            )

    def add_padding(self, layer: Any, label: str, inputs: Any) -> None:
        """Count the input of a keras convolution with the padding that dilation asks for."""
        rates, sizes = getattr(layer, "dilation_rate", None), getattr(layer, "kernel_size", None)
        if not rates or not sizes or max(rates) == 1:
            return
        *sides, channels = inputs.shape[1:]
        padded = [
            (side or 1) + (size - 1) * rate
            for side, size, rate in zip(sides, sizes, rates, strict=True)
        ]
        self.add_tensor(f"{label} (padded)", (*padded, channels))

    def add_operations(self, layer: Any, shape: Shape) -> None:
        """Count the multiplications of one call of a keras layer, given the shape of its output.

        Raises
        ------
        ModelError
            If all so far are too many.
        """
        weights = 0 if layer is None else layer.count_params()
        self._operations += weights * math.prod(side or 1 for side in shape[:-1])
        if self._operations > MAX_OPERATIONS:
            raise ModelError(
                f"{self._name} is refused: one image takes {self._operations:,} multiplications, "
                f"at most {MAX_OPERATIONS:,}"
            )

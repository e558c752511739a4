"""The shape of a feature map as far as it is known before an image comes."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """Channels, size and stride (input pixels per cell) of a feature map; None where unknown."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None

"""Distinct colours for classes and instances."""

import colorsys
import random
from collections.abc import Sequence

import numpy as np

_GOLDEN = 0.618033988749895


def palette(size: int) -> np.ndarray:
    """Return RGB colours in [0, 1], shape (size, 3): hues a golden angle apart, in four tones."""
    tones = ((0.85, 0.95), (0.6, 0.85), (0.95, 0.65), (0.45, 1.0))
    return np.array(
        [colorsys.hsv_to_rgb((0.58 + index * _GOLDEN) % 1.0, *tones[index // 5 % 4]) for index in range(size)],
        dtype=np.float32,
    ).reshape(-1, 3)


_COLORS = palette(80)


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """Return the palette, shape (80, 3), float32 in [0, maximum]; BGR unless rgb."""
    colors = _COLORS * maximum
    return colors if rgb else colors[:, ::-1]


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """Return one colour of the palette, shape (3,)."""
    return colormap(rgb, maximum)[np.random.randint(0, len(_COLORS))]


def random_colors(N: int, rgb: bool = False, maximum: int = 255) -> Sequence[np.ndarray]:
    """Return N different colours of the palette."""
    return [colormap(rgb, maximum)[index] for index in random.sample(range(len(_COLORS)), N)]

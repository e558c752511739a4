"""How example pictures are shown to an image encoder: square crops with some context, and random views of them."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from mvseg.data.examples import Example
from mvseg.data.reading import read_image
from mvseg.vocabulary import ImageEncoder
from mvseg.vocabulary.fusion import AggregatorFacts, ExampleAggregator, aggregate, average_embeddings

SIDE = 448  # pixels of a random view, more than image encoders look at
CHUNK = 64  # pictures that are in memory at a time, at least
JITTER, HUE, JITTERED = 0.2, 0.05, 0.8  # largest change of brightness, contrast, colour; of the hue; how often at all

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewSettings:
    """How an example is shown.

    Args:
        context: by which share the square around a box is larger than its longer side (0.4; published: 0.4 where
            examples are averaged, 0.2 for the aggregator).
        views: random views of each example (resized crops of 0.8 to 1 of the area, half of them mirrored, colours
            jittered); 0: the crop itself, once.
        seed: of the views; those of an example depend on it and on the example's pixels alone.
    """

    context: float = 0.4
    views: int = 5
    seed: int = 42

    def __post_init__(self) -> None:
        if not 0 <= self.context < float("inf") or self.views < 0:
            raise ValueError(f"context {self.context} and views {self.views} of an example must not be negative")


def square_crop(image: np.ndarray, box: Sequence[float], context: float, where: str = "example") -> np.ndarray:
    """Cut a square around a box out of an image.

    Source: Kaul, Xie and Zisserman 2023, arXiv 2306.05493.

    Args:
        image: pixels (H, W, 3).
        box: x, y, w, h in pixels.
        context: by which share the square is larger than the longer side of the box.
        where: what to call the example in an error.

    Returns:
        The pixels of the square that are inside of the image, at least one, (h, w, 3).

    Raises:
        ValueError: if the box is outside of the image.
    """
    x, y, w, h = map(float, box)
    height, width = image.shape[:2]
    if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        raise ValueError(
            f"{where}: the box x={x:g}, y={y:g}, w={w:g}, h={h:g} is outside of the image of {width} x {height} pixels"
        )
    half = max(w, h) * (1 + context) / 2
    left, right = (int(min(max(x + w / 2 + side, 0), width)) for side in (-half, half))
    top, bottom = (int(min(max(y + h / 2 + side, 0), height)) for side in (-half, half))
    left, top = min(left, width - 1), min(top, height - 1)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def random_views(image: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Show a picture several times, each time a little different; the same picture and seed give the same views.

    Args:
        image: pixels (H, W, 3), uint8 RGB.
        count: number of views; 0: the picture as it is, once.
        seed: of the views.

    Returns:
        ``count`` square views (448, 448, 3), uint8, or the picture itself (H, W, 3).
    """
    if not count:
        return [image]
    draw = np.random.default_rng([seed, zlib.crc32(np.ascontiguousarray(image).tobytes())])
    return [_view(image, draw) for _ in range(count)]


def _view(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    area, ratio = draw.uniform(0.8, 1.0), np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
    w = min(width, max(1.0, float(np.sqrt(height * width * area * ratio))))
    h = min(height, max(1.0, float(np.sqrt(height * width * area / ratio))))
    left, top = draw.uniform(0, width - w), draw.uniform(0, height - h)
    box = (left, top, left + w, top + h)
    view = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
    if draw.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    jittered, factors, hue = draw.random() < JITTERED, draw.uniform(1 - JITTER, 1 + JITTER, 3), draw.uniform(-HUE, HUE)
    if jittered:
        for enhance, factor in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors):
            view = enhance(view).enhance(float(factor))
        h_, s, v = view.convert("HSV").split()
        turned = (np.asarray(h_).astype(int) + round(hue * 256)) % 256
        view = Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), s, v)).convert("RGB")
    return np.asarray(view)


def example_views(example: Example, settings: ViewSettings) -> list[np.ndarray]:
    """Read an example and show it.

    Args:
        example: the example.
        settings: how it is shown.

    Returns:
        Its views, each (h, w, 3), uint8 RGB.

    Raises:
        ValueError: if its box is outside of the image.
        ImageReadError: if the file is missing or no image; the message names it.
    """
    image = read_image(example.image, "RGB") if isinstance(example.image, str) else example.image
    if example.box is not None:
        image = square_crop(image, example.box, settings.context, example.name)
    return random_views(image, settings.views, settings.seed)


def embed_examples(
    encoder: ImageEncoder, examples: Mapping[str, Sequence[Example]], settings: ViewSettings | None = None
) -> dict[str, Tensor]:
    """Embed all views of the examples of every word.

    Args:
        encoder: the image encoder, of width D.
        examples: word to its examples, at least one each.
        settings: how they are shown; None: as usual.

    Returns:
        Word to the embeddings of its examples, (m, views, D) float32, as the encoder gives them.
    """
    settings = settings or ViewSettings()
    waiting: list[np.ndarray] = []
    rows: list[Tensor] = []
    for pictures in examples.values():
        for picture in pictures:
            waiting += example_views(picture, settings)
            if len(waiting) >= CHUNK:
                rows.append(encoder.encode(waiting))
                waiting = []
    if waiting:
        rows.append(encoder.encode(waiting))
    if not rows:
        return {}
    views = max(settings.views, 1)
    parts = torch.cat(rows).unflatten(0, (-1, views)).split([len(pictures) for pictures in examples.values()])
    return dict(zip(examples, parts, strict=True))


def image_rows(
    embedded: Mapping[str, Tensor],
    average: str = "raw",
    aggregator: tuple[ExampleAggregator, AggregatorFacts] | None = None,
) -> dict[str, Tensor]:
    """Make one row of the embeddings of every word's examples.

    Args:
        embedded: word to embeddings (m, views, D).
        average: without an aggregator: whether they are averaged as they are ("raw") or at length 1 ("normalized").
        aggregator: what makes the row, and what its file says; None: their average.

    Returns:
        Word to its row, (D,) float32.
    """
    if aggregator is None:
        return {word: average_embeddings(rows.flatten(0, 1), average) for word, rows in embedded.items()}
    model, facts = aggregator
    return {word: aggregate(model, rows.flatten(0, 1), facts.average) for word, rows in embedded.items()}

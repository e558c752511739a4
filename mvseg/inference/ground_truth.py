"""Pictures of what a mapper hands to the model, for every kind of supervision: objects, maps, tags and sentences."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from PIL import Image, ImageDraw, ImageFont

from mvseg.inference.drawing import BACKGROUND, draw_objects, label_color

MAP_ALPHA = 0.55  # how much a map's colour covers the image
LINE_HEIGHT = 15  # pixels of a line of text below a picture
LEGEND_ENTRIES = 16  # classes listed below a map, largest first


def draw_sample(sample: Mapping[str, Any], words: Sequence[str], *, rgb: bool, height: int = 320) -> np.ndarray:
    """Draw a model input with everything that its annotations teach; maps get a legend, sentences stand below.

    Args:
        sample: a mapper's result: ``image`` uint8 (3, H, W), and any of ``instances``, ``sem_seg`` (H, W), ``pan_seg``
            (H, W) with ``segments_info``, ``image_labels``, ``captions`` and ``phrases``.
        words: the dataset's vocabulary, in the order of the class indices.
        rgb: True if the image's channels are RGB, False for BGR.
        height: height of the image in the picture, pixels; lines of text come on top of it.

    Returns:
        uint8 RGB, (height or more, about W * height / H, 3).
    """
    image = sample["image"].permute(1, 2, 0).cpu().numpy()
    image = image if rgb else image[:, :, ::-1]
    lines: list[_Line] = []
    if sample.get("sem_seg") is not None:
        image, lines = paint_map(image, np.asarray(sample["sem_seg"].cpu()), words)
    elif sample.get("pan_seg") is not None:
        image, lines = paint_segments(image, np.asarray(sample["pan_seg"].cpu()), sample.get("segments_info"), words)
    boxes, labels, masks = _objects(sample, words)
    picture = draw_objects(image, boxes, labels, masks=masks, height=height)
    tags = [_Line(words[int(i)], label_color(words[int(i)])) for i in sample.get("image_labels") or ()]
    lines += tags or [_Line(str(text)) for text in sample.get("captions") or ()]
    lines += _phrase_lines(sample)
    return _with_lines(picture, lines) if lines else picture


class _Line:
    """A text with the colour of its swatch; None has no swatch and gets a line of its own."""

    def __init__(self, text: str, color: tuple[float, float, float] | None = None) -> None:
        self.text = text
        self.color = None if color is None else tuple(round(255 * c) for c in color)


def _objects(sample: Mapping[str, Any], words: Sequence[str]) -> tuple[Any, list[str], Any]:
    instances = sample.get("instances")
    boxes: list[Sequence[float]] = []
    labels: list[str] = []
    if instances is not None and len(instances):
        labels = [words[int(c)] for c in instances.gt_classes]
        masks = instances.gt_masks if instances.has("gt_masks") else None
        return instances.gt_boxes.tensor.cpu(), labels, masks
    for number, box in enumerate(_phrases_of_boxes(sample), start=1):
        boxes.append(box)
        labels.append(str(number))
    return boxes, labels, None


def _phrases_of_boxes(sample: Mapping[str, Any]) -> dict[tuple[float, ...], list[str]]:
    """The phrases about each box; several may speak of one object."""
    found: dict[tuple[float, ...], list[str]] = {}
    for phrase in sample.get("phrases") or ():
        found.setdefault(tuple(round(side, 2) for side in _corners(phrase)), []).append(str(phrase["text"]))
    return found


def _phrase_lines(sample: Mapping[str, Any]) -> list[_Line]:
    """One line for each phrase, with the number and the colour of its box."""
    boxes = _phrases_of_boxes(sample).values()
    return [_Line(f"{n}: {text}", label_color(str(n))) for n, texts in enumerate(boxes, start=1) for text in texts]


def _corners(item: Mapping[str, Any]) -> list[float]:
    box = np.asarray(item["bbox"], dtype=float).tolist()
    return list(BoxMode.convert(box, item.get("bbox_mode", BoxMode.XYXY_ABS), BoxMode.XYXY_ABS))


def paint_map(image: np.ndarray, labels: np.ndarray, words: Sequence[str]) -> tuple[np.ndarray, list[_Line]]:
    """Paint a semantic map over an image; pixels without a class stay as they are, darkened.

    Args:
        image: uint8 RGB, (H, W, 3).
        labels: class index of every pixel, (H, W); 255, and anything that is no class index, stands for none.
        words: the words of the classes.

    Returns:
        The picture, uint8 RGB (H, W, 3), and the lines of its legend, largest class first.
    """
    values, counts = np.unique(labels, return_counts=True)
    colors = np.zeros((*labels.shape, 3))
    known = np.zeros(labels.shape, dtype=bool)
    legend = []
    for value, count in sorted(zip(values.tolist(), counts.tolist()), key=lambda pair: -pair[1]):
        if not 0 <= value < len(words):
            continue
        where = labels == value
        colors[where] = label_color(words[value])
        known |= where
        legend.append(_Line(f"{words[value]} {count / labels.size:.0%}", label_color(words[value])))
    missing = 1 - known.mean()
    if missing:
        legend.append(_Line(f"no class {missing:.0%}", (0.0, 0.0, 0.0)))
    return _blend(image, colors), _shortened(legend)


def paint_segments(
    image: np.ndarray, ids: np.ndarray, segments: Sequence[Mapping[str, Any]] | None, words: Sequence[str]
) -> tuple[np.ndarray, list[_Line]]:
    """Paint a panoptic map over an image, with dark borders between segments.

    Args:
        image: uint8 RGB, (H, W, 3).
        ids: segment of every pixel, (H, W); ids that no segment has stand for no segment.
        segments: dicts with ``id`` and ``category_id``, and ``iscrowd``.
        words: the words of the classes.

    Returns:
        The picture, uint8 RGB (H, W, 3), and the lines of its legend, largest class first.
    """
    colors = np.zeros((*ids.shape, 3))
    pixels: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for segment in segments or ():
        where = ids == segment["id"]
        if not where.any():
            continue
        word = words[segment["category_id"]] + (" (crowd)" if segment.get("iscrowd") else "")
        numbers[word] = numbers.get(word, 0) + 1
        pixels[word] = pixels.get(word, 0) + int(where.sum())
        shade = 1.0 - 0.12 * ((numbers[word] - 1) % 4)  # neighbouring instances of one word are told apart
        colors[where] = shade * np.array(label_color(word))
    picture = _blend(image, colors)
    border = np.zeros(ids.shape, dtype=bool)
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    picture[border] = 30
    order = sorted(pixels, key=lambda word: -pixels[word])
    times = {word: f" ({numbers[word]})" if numbers[word] > 1 else "" for word in order}
    return picture, _shortened([_Line(word + times[word], label_color(word)) for word in order])


def _blend(image: np.ndarray, colors: np.ndarray) -> np.ndarray:
    return np.rint((1 - MAP_ALPHA) * image + MAP_ALPHA * 255 * colors).astype(np.uint8)


def _shortened(legend: list[_Line]) -> list[_Line]:
    if len(legend) <= LEGEND_ENTRIES:
        return legend
    return [*legend[: LEGEND_ENTRIES - 1], _Line(f"and {len(legend) - LEGEND_ENTRIES + 1} more", (1.0, 1.0, 1.0))]


@functools.cache
def font(size: int = 11) -> Any:
    """Load the font of lines of text: DejaVu Sans, which matplotlib carries, knows most scripts.

    Args:
        size: in pixels.

    Returns:
        A font of Pillow.
    """
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _with_lines(picture: np.ndarray, lines: Sequence[_Line]) -> np.ndarray:
    """Put lines below a picture: those with a swatch beside each other, the others one below the other."""
    width = picture.shape[1]
    placed: list[tuple[int, int, _Line, str]] = []
    x = row = 0
    for line in lines:
        swatch = LINE_HEIGHT if line.color is not None else 0
        for number, text in enumerate(_wrapped(line.text, width - swatch - 4)):
            needed = swatch + int(font().getlength(text)) + 8
            if x and (x + needed > width or line.color is None or number):
                x, row = 0, row + 1
            placed.append((x, row, line if number == 0 else _Line(""), text))
            x += needed
        if line.color is None:
            x, row = 0, row + 1
    rows = max(r for _, r, _, _ in placed) + 1
    canvas = Image.new("RGB", (width, picture.shape[0] + rows * LINE_HEIGHT + 2), BACKGROUND)
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for left, number, line, text in placed:
        top = picture.shape[0] + 1 + number * LINE_HEIGHT
        if line.color is not None:
            draw.rectangle((left + 2, top + 3, left + 10, top + 11), fill=line.color, outline=(120, 120, 120))
            left += LINE_HEIGHT
        draw.text((left + 2, top), text, fill=(20, 20, 20), font=font())
    return np.asarray(canvas)


def _wrapped(text: str, width: int) -> list[str]:
    rows = [""]
    for word in text.split():
        longer = f"{rows[-1]} {word}".strip()
        if rows[-1] and font().getlength(longer) > width:
            rows.append(word)
        else:
            rows[-1] = longer
    return rows

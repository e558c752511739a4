"""Crops of an image, cut and resized to an encoder's input on any device, as Pillow resizes them one by one.

On an accelerator all crops are resized at once, by two matrix products along the width and the height. The matrices
hold Pillow's filter, which widens when it shrinks, and values are rounded to 8 bits after each product as Pillow does.
On the CPU torch's own kernel for 8-bit images is faster, crop by crop. Both agree with Pillow to one level of 255 but
for tall crops squeezed to a square, whose two passes Pillow exchanges: there single values differ by a few levels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mvseg.vocabulary.encoders import PixelSettings
from mvseg.vocabulary.suggestions import did_you_mean

RESIZES = ("squash", "shortest")
MAX_ASPECT = 8  # a crop that is longer is cut to its middle before its shorter side is resized: only that is seen
SMALLEST_WINDOW = 16  # pixels; crops are grouped by powers of two of their sides
WORKING_SET = 2**24  # values of the largest group that is resized at a time


def crop_edges(boxes: Tensor, scale: float, size: tuple[int, int]) -> Tensor:
    """Choose the pixels of the crops of boxes.

    Args:
        boxes: (k, 4) x0, y0, x1, y1 in pixels of the image.
        scale: factor on the sides of each box, about its centre.
        size: height and width of the image.

    Returns:
        Edges (k, 4), int64: first column, first row, and those behind the last; rounded outwards, clamped to the
        image, at least one pixel wide and high.
    """
    height, width = size
    boxes = boxes.double()
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
    limits = torch.tensor([width, height], dtype=torch.float64, device=boxes.device)
    first = (centre - half).floor().clamp(min=0).minimum(limits - 1)
    last = torch.minimum((centre + half).ceil(), limits).maximum(first + 1)
    return torch.cat([first, last], 1).long()


def cut_crops(image: Tensor, edges: Tensor, settings: PixelSettings) -> Tensor:
    """Cut crops out of an image and resize them.

    Args:
        image: (3, H, W), uint8.
        edges: (k, 4) as of :func:`crop_edges`, on the device of the image.
        settings: size, interpolation and way of resizing.

    Returns:
        Crops (k, 3, height, width), float32, whole numbers of 0 to 255, on the device of the image.

    Raises:
        ValueError: if the way of resizing or the interpolation does not exist.
    """
    _check(settings)
    if settings.resize == "shortest":
        edges = _middles(edges)
    if image.device.type == "cpu":
        return _one_by_one(image, edges, settings)
    return resize_together(image, edges, settings)


def resize_together(image: Tensor, edges: Tensor, settings: PixelSettings) -> Tensor:
    """Resize crops by matrix products, those of similar size together.

    Args:
        image: (3, H, W), uint8.
        edges: (k, 4), on the device of the image; no side longer than 8 times the other if that is cut off.
        settings: as for :func:`cut_crops`.

    Returns:
        Crops (k, 3, height, width) as of :func:`cut_crops`.
    """
    sides = (edges[:, 2:] - edges[:, :2]).cpu()
    windows = 2 ** sides.clamp(min=SMALLEST_WINDOW).double().log2().ceil().long()  # (k, 2) width, height
    rows = image.permute(1, 0, 2)  # (H, 3, W)
    out = image.new_zeros((len(edges), 3, *settings.size), dtype=torch.float32)
    for window in windows.unique(dim=0).tolist():
        members = (windows == torch.tensor(window)).all(1).nonzero()[:, 0].to(image.device)
        width, height = window
        one = 3 * height * (width + settings.size[1]) + settings.size[1] * width + settings.size[0] * height
        for part in members.split(max(1, WORKING_SET // one)):
            out[part] = _resize(rows, edges[part], (height, width), settings)
    return out


def normalize_crops(crops: Tensor, settings: PixelSettings) -> Tensor:
    """Bring crops to the values that an encoder wants.

    Args:
        crops: (k, 3, H, W), 0 to 255.
        settings: mean and standard deviation.

    Returns:
        Pixels (k, 3, H, W), float32.
    """
    mean, std = (crops.new_tensor(v).view(1, 3, 1, 1) for v in (settings.mean, settings.std))
    return (crops / 255 - mean) / std


def _check(settings: PixelSettings) -> None:
    if settings.resize not in RESIZES:
        raise ValueError(f"crops cannot be resized by {settings.resize!r}{did_you_mean(settings.resize, RESIZES)}")
    if settings.interpolation not in FILTERS:
        raise ValueError(
            f"interpolation {settings.interpolation!r} of crops{did_you_mean(settings.interpolation, tuple(FILTERS))}"
        )
    if settings.resize == "shortest" and settings.size[0] != settings.size[1]:
        raise ValueError(f"crops of {settings.size} pixels are not square: resize them by 'squash'")


def _middles(edges: Tensor) -> Tensor:
    sides = edges[:, 2:] - edges[:, :2]
    longest = MAX_ASPECT * sides.amin(1, keepdim=True)
    first = edges[:, :2] + (sides - longest).clamp(min=0) // 2
    return torch.cat([first, torch.minimum(first + longest, edges[:, 2:])], 1)


def _one_by_one(image: Tensor, edges: Tensor, settings: PixelSettings) -> Tensor:
    out = torch.empty((len(edges), 3, *settings.size))
    sides = edges[:, 2:] - edges[:, :2]
    resized, skipped = (torch.stack(p, 1).tolist() for p in zip(*(_sizes(sides, a, settings) for a in (0, 1))))
    for i, (x0, y0, x1, y1) in enumerate(edges.tolist()):
        (width, height), (left, top) = resized[i], skipped[i]
        crop = image[None, :, y0:y1, x0:x1]
        whole = torch.nn.functional.interpolate(
            crop, (height, width), mode=settings.interpolation, antialias=True, align_corners=False
        )
        out[i] = whole[0, :, top : top + settings.size[0], left : left + settings.size[1]]
    return out


def _resize(rows: Tensor, edges: Tensor, window: tuple[int, int], settings: PixelSettings) -> Tensor:
    """(k, 3, height, width) of crops that fit into a window (height, width); image rows are (H, 3, W)."""
    k, (height, width) = len(edges), window
    device = rows.device
    sides = edges[:, 2:] - edges[:, :2]
    y = (edges[:, 1:2] + torch.arange(height, device=device)).clamp(max=rows.shape[0] - 1)
    x = (edges[:, 0:1] + torch.arange(width, device=device)).clamp(max=rows.shape[2] - 1)
    channel = torch.arange(3, device=device).view(1, 1, 3, 1)
    pixels = rows[y[:, :, None, None], channel, x[:, None, None, :]].float()  # (k, height, 3, width)
    across, down = (_matrix(sides, axis, window[1 - axis], settings) for axis in (0, 1))
    wide = _to_bytes(pixels.reshape(k, height * 3, width) @ across.mT).view(k, height, -1)
    return _to_bytes(down @ wide).view(k, settings.size[0], 3, settings.size[1]).transpose(1, 2)


def _to_bytes(values: Tensor) -> Tensor:
    return (values + 0.5).floor_().clamp_(0, 255)


def _matrix(sides: Tensor, axis: int, window: int, settings: PixelSettings) -> Tensor:
    """Matrices (k, pixels out, window) that resize one side; axis 0 is the width."""
    size, own = settings.size[1 - axis], sides[:, axis]
    resized, skipped = _sizes(sides, axis, settings)
    scale = own.double() / resized
    centre = (torch.arange(size, device=own.device) + skipped[:, None] + 0.5) * scale[:, None]
    place = torch.arange(window, device=own.device) + 0.5
    stretch = scale.clamp(min=1)[:, None, None]
    weights = FILTERS[settings.interpolation]((place - centre[:, :, None]) / stretch)
    weights = weights * (torch.arange(window, device=own.device) < own[:, None])[:, None]
    return (weights / weights.sum(2, keepdim=True)).float()


def _sizes(sides: Tensor, axis: int, settings: PixelSettings) -> tuple[Tensor, Tensor]:
    """Resized sides (k,) along an axis, and how many of their first pixels are cut off."""
    size, own = settings.size[1 - axis], sides[:, axis]
    if settings.resize == "squash":
        return torch.full_like(own, size), torch.zeros_like(own)
    # torchvision's sizes: the longer side is rounded down, the margin to the nearest even number
    resized = (size * own.double() / sides.amin(1)).floor().long()
    return resized, ((resized - size) / 2).round().long()


def _triangle(t: Tensor) -> Tensor:
    return (1 - t.abs()).clamp(min=0)


def _cubic(t: Tensor, a: float = -0.5) -> Tensor:
    """Keys's cubic convolution with Pillow's parameter."""
    t = t.abs()
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((t - 5) * t + 8) * t * a - 4 * a
    return torch.where(t < 1, near, torch.where(t < 2, far, 0))


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {"bicubic": _cubic, "bilinear": _triangle}

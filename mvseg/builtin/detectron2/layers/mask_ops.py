"""Pasting fixed-size masks, each relative to a box, into images."""

import torch
from torch import Tensor
from torch.nn import functional as F

# Bytes of float sampling grids and results that one chunk may take on a device other than the CPU.
_CHUNK_BYTES = 2**30


def paste_masks_in_image(masks: Tensor, boxes: Tensor, image_shape: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Resize mask i to box i and put it there.

    Args:
        masks: (N, M, M) probabilities.
        boxes: Boxes or (N, 4) corners in pixels; corners may be fractional and outside of the image.
        image_shape: (height, width).
        threshold: mask probability from which a pixel belongs to the object; negative asks for soft masks.

    Returns:
        (N, height, width) bool, or uint8 in 0..255 for a negative threshold.
    """
    if len(masks) == 0:
        return masks.new_empty((0, *image_shape), dtype=torch.uint8)
    boxes = getattr(boxes, "tensor", boxes)
    height, width = (int(side) for side in image_shape)
    on_cpu = masks.device.type == "cpu"
    # On the CPU one mask at a time, only around its box; elsewhere few large kernels.
    chunk = 1 if on_cpu else max(1, _CHUNK_BYTES // (height * width * 16))
    result = masks.new_zeros((len(masks), height, width), dtype=torch.bool if threshold >= 0 else torch.uint8)
    for start in range(0, len(masks), chunk):
        part = slice(start, start + chunk)
        values, (rows, columns) = _do_paste_mask(masks[part, None], boxes[part], height, width, skip_empty=on_cpu)
        result[part, rows, columns] = values >= threshold if threshold >= 0 else (values * 255).to(torch.uint8)
    return result


def _do_paste_mask(
    masks: Tensor, boxes: Tensor, img_h: int, img_w: int, skip_empty: bool = True
) -> tuple[Tensor, tuple[slice, slice]]:
    """Sample masks (N, 1, M, M) at the pixel centres of an image.

    Args:
        masks: (N, 1, M, M).
        boxes: (N, 4) where they belong.
        img_h: height of the image.
        img_w: width of the image.
        skip_empty: sample only the rectangle that holds all boxes.

    Returns:
        float (N, h, w) and the rows and columns of the image that they cover.
    """
    rows, columns = slice(0, img_h), slice(0, img_w)
    if skip_empty:
        # One pixel of margin: the interpolation reaches half a mask cell over the edge of the box.
        x0, y0 = (boxes[:, :2].min(dim=0).values.floor() - 1).clamp(min=0).int().tolist()
        x1, y1 = (boxes[:, 2:].max(dim=0).values.ceil() + 1).int().tolist()
        rows, columns = slice(y0, max(min(y1, img_h), y0)), slice(x0, max(min(x1, img_w), x0))
    grid_x = _sampling_coordinates(columns, boxes[:, 0], boxes[:, 2])
    grid_y = _sampling_coordinates(rows, boxes[:, 1], boxes[:, 3])
    shape = (len(masks), grid_y.shape[1], grid_x.shape[1])
    grid = torch.stack((grid_x[:, None, :].expand(shape), grid_y[:, :, None].expand(shape)), dim=3)
    masks = masks if masks.is_floating_point() else masks.float()
    if grid.numel() == 0:
        return masks.new_zeros(shape), (rows, columns)
    return F.grid_sample(masks, grid.to(masks.dtype), align_corners=False)[:, 0], (rows, columns)


def _sampling_coordinates(pixels: slice, low: Tensor, high: Tensor) -> Tensor:
    """(N, P) places of pixel centres on the scale on which the box reaches from -1 to 1."""
    centres = torch.arange(pixels.start, pixels.stop, device=low.device, dtype=torch.float32) + 0.5
    return (centres - low[:, None]) / (high - low)[:, None] * 2 - 1

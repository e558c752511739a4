"""Region features from a feature pyramid: each box from the level that fits its size."""

import math

import torch
from torch import Tensor, nn
from torchvision.ops import RoIPool

from ..layers import ROIAlign, cat
from ..structures import Boxes


def assign_boxes_to_levels(
    box_lists: list[Boxes], min_level: int, max_level: int, canonical_box_size: int, canonical_level: int
) -> Tensor:
    """Choose pyramid levels by box size (Lin et al. 2017, equation 1).

    Args:
        box_lists: boxes of each image.
        min_level: finest level (stride 2 ** min_level).
        max_level: coarsest level.
        canonical_box_size: side in pixels of the box that goes to `canonical_level`.
        canonical_level: its level; a box twice as large goes one up.

    Returns:
        (R,) int64 levels, counted from `min_level`.
    """
    side = cat([boxes.area() for boxes in box_lists]).sqrt()
    # The small constant keeps boxes without area from minus infinity.
    level = torch.floor(canonical_level + torch.log2(side / canonical_box_size + 1e-8))
    return level.clamp(min_level, max_level).to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: list[Boxes]) -> Tensor:
    """(R, 5) image index and corners of all boxes of a batch."""
    boxes = cat([image.tensor for image in box_lists])
    sizes = torch.tensor([len(image) for image in box_lists], device=boxes.device)
    index = torch.arange(len(box_lists), device=boxes.device).repeat_interleave(sizes)
    return torch.cat((index.to(boxes.dtype)[:, None], boxes), dim=1)


def _make_pooler(pooler_type: str, output_size: tuple[int, int], scale: float, sampling_ratio: int) -> nn.Module:
    if pooler_type in ("ROIAlign", "ROIAlignV2"):
        return ROIAlign(output_size, scale, sampling_ratio, aligned=pooler_type == "ROIAlignV2")
    if pooler_type == "ROIPool":
        return RoIPool(output_size, spatial_scale=scale)
    raise ValueError(f"No region pooler is called {pooler_type!r}; there are ROIAlign, ROIAlignV2 and ROIPool")


def _level_of(scale: float) -> int:
    level = -math.log2(scale)
    if not math.isclose(level, round(level)):
        raise AssertionError(f"Feature strides must be powers of 2, not {1 / scale}")
    return round(level)


class ROIPooler(nn.Module):
    """Pool boxes from one or several feature levels."""

    def __init__(self, output_size, scales, sampling_ratio, pooler_type, canonical_box_size=224, canonical_level=4):
        super().__init__()
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        poolers = [_make_pooler(pooler_type, self.output_size, scale, sampling_ratio) for scale in scales]
        self.level_poolers = nn.ModuleList(poolers)
        self.min_level, self.max_level = _level_of(scales[0]), _level_of(scales[-1])
        if self.max_level - self.min_level + 1 != len(scales):
            raise AssertionError(f"Feature scales must halve from level to level: {list(scales)}")
        if self.min_level <= 0:
            raise AssertionError(f"The finest feature scale must be below 1: {list(scales)}")
        self.canonical_box_size, self.canonical_level = canonical_box_size, canonical_level

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Pool.

        Args:
            x: features of each level, (N, C, H, W).
            box_lists: boxes of each of the N images, in pixels.

        Returns:
            (R, C, height, width) for all boxes, image by image.
        """
        if (len(x), len(box_lists)) != (len(self.level_poolers), len(x[0])):
            raise AssertionError(
                f"{len(x)} levels of {len(x[0])} images do not fit the pooler or the {len(box_lists)} lists"
            )
        total = sum(len(boxes) for boxes in box_lists)
        result = x[0].new_zeros((total, x[0].shape[1], *self.output_size))
        if total == 0:
            return result
        regions = convert_boxes_to_pooler_format(box_lists)
        if len(x) == 1:
            return self.level_poolers[0](x[0], regions)
        rule = (self.min_level, self.max_level, self.canonical_box_size, self.canonical_level)
        levels = assign_boxes_to_levels(box_lists, *rule)
        for level, (features, pool) in enumerate(zip(x, self.level_poolers)):
            rows = (levels == level).nonzero().squeeze(1)
            # Also without boxes on this level: every level stays in the graph.
            result.index_put_((rows,), pool(features, regions[rows]).to(result.dtype))
        return result

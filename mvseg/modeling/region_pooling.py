"""Regions from a feature pyramid; on the CPU RoIAlign is a sparse matrix product over all levels at once.

RoIAlign is linear in the features, and bilinear weights are a product of a vertical and a horizontal one. So pooling is
a sparse matrix (region bins, cells of all levels) times the features, and its gradient the transposed matrix times the
gradients of the bins. The matrix is found once for all channels and both directions, and a row of it costs one
weighted sum of feature vectors: many times as fast as torchvision's loops. Elsewhere Detectron2's pooler does the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor, nn

REGIONS_AT_ONCE = 128  # while the matrix is made; a region of 7 x 7 bins has about 300 entries, a huge one up to 20,000


@dataclass(frozen=True)
class Sampling:
    """What RoIAlign layers agree in.

    Attributes:
        output_size: bins of a region, (height, width).
        ratio: samples of a bin along each side; 0: as many as it is cells long.
        aligned: pixel centres lie at half coordinates.
    """

    output_size: tuple[int, int]
    ratio: int = 0
    aligned: bool = True


@dataclass(frozen=True)
class PoolingMatrix:
    """A sparse matrix (bins, cells), row by row.

    Attributes:
        starts: (bins + 1,) int32, where the entries of every row begin, and their number.
        cells: (E,) int32 column of every entry: level by level, image by image, row by row.
        weights: (E,) float.
        size: number of bins and of cells.
    """

    starts: Tensor
    cells: Tensor
    weights: Tensor
    size: tuple[int, int]

    def times(self, features: Tensor) -> Tensor:
        """Pool.

        Args:
            features: (cells, C) float.

        Returns:
            (bins, C) float.
        """
        return _weighted_sums(features, self.cells, self.starts, self.weights)

    def transposed_times(self, gradient: Tensor) -> Tensor:
        """Send the gradient of the bins back to the cells.

        Args:
            gradient: (bins, C) float.

        Returns:
            (cells, C) float.
        """
        order = self.cells.argsort(stable=True)
        rows = torch.arange(self.size[0], dtype=torch.int32).repeat_interleave(self.starts.diff())
        starts = _starts(self.cells.bincount(minlength=self.size[1]))
        return _weighted_sums(gradient, rows[order], starts, self.weights[order])


class PyramidPooler(nn.Module):
    """Detectron2's ``ROIPooler``, with another way to the same numbers on the CPU; it has no parameters."""

    def __init__(self, pooler: ROIPooler) -> None:
        """Build the pooler.

        Args:
            pooler: says how to pool; it does so itself on other devices, and where its layers are not ``ROIAlign``.
        """
        super().__init__()
        self.pooler = pooler
        self.sampling: Sampling | None = None
        layers = list(pooler.level_poolers)
        if all(type(layer) is ROIAlign for layer in layers):  # of one pooler, so they differ only in their scale
            self.scales = [layer.spatial_scale for layer in layers]
            self.sampling = Sampling(tuple(pooler.output_size), layers[0].sampling_ratio, layers[0].aligned)

    def forward(self, levels: list[Tensor], boxes: list[Boxes], gradient_share: float = 1.0) -> Tensor:
        """Pool the boxes of a batch.

        Args:
            levels: for every level (B, C, H, W) float.
            boxes: for every image its boxes, pixels.
            gradient_share: factor on the gradient that goes back to the features.

        Returns:
            (R, C, height, width) float, image by image.
        """
        first = levels[0]
        if self.sampling is None or first.device.type != "cpu" or first.dtype not in (torch.float32, torch.float64):
            pooled = self.pooler(levels, boxes)
            return pooled if gradient_share == 1 else _ShareGradient.apply(pooled, gradient_share)
        regions = convert_boxes_to_pooler_format(boxes).detach().to(first.dtype)
        chosen = torch.zeros(len(regions), dtype=torch.long)
        if len(levels) > 1:
            rule = (self.pooler.canonical_box_size, self.pooler.canonical_level)
            chosen = assign_boxes_to_levels(boxes, self.pooler.min_level, self.pooler.max_level, *rule)
        matrix = pooling_matrix(regions, chosen, [level.shape for level in levels], self.scales, self.sampling)
        return _Pool.apply(matrix, self.sampling.output_size, gradient_share, *levels)


def use_fast_pooling(module: nn.Module) -> None:
    """Exchange the poolers below a module, in place.

    Args:
        module: such as region heads; what is not a ``ROIPooler`` stays.
    """
    for name, child in module.named_children():
        if type(child) is ROIPooler:
            setattr(module, name, PyramidPooler(child))
        elif not isinstance(child, PyramidPooler):
            use_fast_pooling(child)


class _ShareGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pooled: Tensor, share: float) -> Tensor:
        ctx.share = share
        return pooled.view_as(pooled)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient * ctx.share, None


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: PoolingMatrix, size: tuple[int, int], share: float, *levels: Tensor) -> Tensor:
        ctx.matrix, ctx.share, ctx.shapes = matrix, share, [level.shape for level in levels]
        cells = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, level.shape[1]) for level in levels])
        pooled = matrix.times(cells)
        return pooled.view(-1, *size, cells.shape[1]).permute(0, 3, 1, 2).contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        bins = gradient.mul(ctx.share).flatten(2).transpose(1, 2).reshape(-1, gradient.shape[1])
        cells = ctx.matrix.transposed_times(bins).split([b * h * w for b, _, h, w in ctx.shapes])
        maps = [part.view(b, h, w, c).permute(0, 3, 1, 2) for part, (b, c, h, w) in zip(cells, ctx.shapes)]
        return None, None, None, *(part.contiguous() for part in maps)


def pooling_matrix(
    regions: Tensor, levels: Tensor, shapes: Sequence[torch.Size], scales: Sequence[float], sampling: Sampling
) -> PoolingMatrix:
    """Find which cells the bins of regions read, and with which weights.

    Args:
        regions: (R, 5) float, image index and x0, y0, x1, y1, pixels.
        levels: (R,) int64, feature level of every region.
        shapes: shape (B, C, H, W) of every level.
        scales: cells per pixel of every level.
        sampling: how to pool.

    Returns:
        A matrix (R * height * width, cells of all levels).

    Source: He et al. 2017, Mask R-CNN (arXiv 1703.06870), section 3: bilinear averages.
    """
    areas = torch.tensor([[b * h * w, h * w, h, w] for b, _, h, w in shapes])
    first = F.pad(areas[:, 0].cumsum(0), (1, 0))
    heights, widths = areas[levels, 2], areas[levels, 3]
    offsets = first[levels] + regions[:, 0].long() * areas[levels, 1]
    corners = regions[:, 1:] * regions.new_tensor(scales)[levels, None] - (0.5 if sampling.aligned else 0.0)
    counts, cells, weights = [], [], []
    for some in (slice(start, start + REGIONS_AT_ONCE) for start in range(0, len(regions), REGIONS_AT_ONCE)):
        low, high = corners[some, :2], corners[some, 2:]
        weight_y, cell_y = _axis_weights(low[:, 1], high[:, 1], heights[some], sampling.output_size[0], sampling)
        weight_x, cell_x = _axis_weights(low[:, 0], high[:, 0], widths[some], sampling.output_size[1], sampling)
        cell_y = cell_y * widths[some, None, None] + offsets[some, None, None]
        weight = (weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]).flatten(0, 2).flatten(1)
        cell = (cell_y[:, :, None, :, None] + cell_x[:, None, :, None, :]).int().flatten(0, 2).flatten(1)
        used = weight != 0
        counts.append(used.sum(1))
        cells.append(cell[used])
        weights.append(weight[used])
    size = (len(regions) * sampling.output_size[0] * sampling.output_size[1], int(first[-1]))
    if not cells:
        return PoolingMatrix(torch.zeros(1, dtype=torch.int32), first[:0].int(), regions[:0, 0], size)
    return PoolingMatrix(_starts(torch.cat(counts)), torch.cat(cells), torch.cat(weights), size)


def _axis_weights(low: Tensor, high: Tensor, size: Tensor, bins: int, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Weights of the cells that the samples of every bin read along one side.

    Args:
        low: (R,) float, where the regions begin, cells.
        high: (R,) float, where they end.
        size: (R,) int64, cells of the feature map along this side.
        bins: bins of a region along this side.
        sampling: how to pool.

    Returns:
        (R, bins, K) float weights and (R, bins, K) int64 cells; weights beyond the needed cells are 0.
    """
    extent = high - low if sampling.aligned else (high - low).clamp(min=1.0)
    step = extent / bins
    counts = torch.full_like(low, sampling.ratio) if sampling.ratio > 0 else step.ceil()
    sample = torch.arange(max(int(counts.max()), 1), dtype=low.dtype)
    share = (1 / counts.clamp(min=1))[:, None, None]
    last = (size - 1)[:, None, None]
    bin_index = torch.arange(bins, dtype=low.dtype)[None, :, None]
    place = low[:, None, None] + step[:, None, None] * (bin_index + (sample + 0.5) * share)
    used = (sample < counts[:, None, None]) & (place >= -1) & (place <= last + 1)  # samples further outside read 0
    place = place.clamp(min=0).minimum(last.to(place.dtype))
    left = place.floor()
    part = (place - left).masked_fill(~used, 0)
    share = share * used
    left = left.long()
    right = (left + 1).minimum(last)
    first = torch.where(used, left, last).amin(-1, keepdim=True)
    width = int((right - first).masked_fill(~used, 0).max()) + 1
    weights = low.new_zeros((len(low), bins, width))
    weights.scatter_add_(2, (left - first).clamp(0, width - 1), share * (1 - part))
    weights.scatter_add_(2, (right - first).clamp(0, width - 1), share * part)
    return weights, (first + torch.arange(width)).minimum(last)


def _starts(counts: Tensor) -> Tensor:
    return F.pad(counts.cumsum(0), (1, 0)).int()


def _weighted_sums(vectors: Tensor, index: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Sum ``weights * vectors[index]`` between starts: (len(starts) - 1, C)."""
    if not len(index):
        return vectors.new_zeros((len(starts) - 1, vectors.shape[1]))
    return F.embedding_bag(index, vectors, starts[:-1], mode="sum", per_sample_weights=weights)

"""RoIAlign whose gradient is a sparse matrix product on the CPU; values and CUDA stay torchvision's.

RoIAlign is linear in the features, and bilinear weights are a product of a vertical and a horizontal one. So its
gradient is a sparse matrix (cells, region bins) times the gradients of the bins: several times as fast as torchvision's
loop, which finds the weights anew for every channel and uses one thread.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from detectron2.layers import ROIAlign
from torch import Tensor, nn
from torchvision.ops import roi_align

REGIONS_AT_ONCE = 512  # a region of 7 x 7 bins has about 1,000 matrix entries of 16 bytes, a huge one up to 20,000

with warnings.catch_warnings():  # PyTorch says once that its sparse matrices may change
    warnings.simplefilter("ignore")
    torch.sparse_csc_tensor([0, 1], [0], [1.0], size=(1, 1))


class SparseGradientROIAlign(nn.Module):
    """RoIAlign as Detectron2's, with another way to the same gradient of features on the CPU."""

    def __init__(self, output_size: tuple[int, int], scale: float, sampling_ratio: int, aligned: bool) -> None:
        """Build the layer.

        Args:
            output_size: bins of a region, (height, width).
            scale: feature cells per pixel.
            sampling_ratio: samples of a bin along each side; 0: as many as it is cells long.
            aligned: pixel centres lie at half coordinates.
        """
        super().__init__()
        self.output_size, self.spatial_scale = output_size, scale
        self.sampling_ratio, self.aligned = sampling_ratio, aligned

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """Pool regions.

        Args:
            features: (B, C, H, W) float.
            regions: (R, 5) float, image index and x0, y0, x1, y1, pixels.

        Returns:
            (R, C, height, width) float.
        """
        setting = (self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
        regions = regions.to(features.dtype)
        if features.device.type == "cpu" and features.dtype in (torch.float32, torch.float64):
            return _Pool.apply(features, regions.detach(), *setting)
        return roi_align(features, regions, *setting)


def use_sparse_gradient(pooler: nn.Module) -> nn.Module:
    """Exchange the RoIAlign layers below a pooler, in place.

    Args:
        pooler: such as Detectron2's ``ROIPooler``; layers of other kinds stay.

    Returns:
        The pooler.
    """
    for name, child in pooler.named_children():
        if type(child) is ROIAlign:
            old: Any = child
            size = (old.output_size, old.output_size) if isinstance(old.output_size, int) else tuple(old.output_size)
            layer = SparseGradientROIAlign(size, old.spatial_scale, old.sampling_ratio, old.aligned)
            setattr(pooler, name, layer)
        else:
            use_sparse_gradient(child)
    return pooler


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, regions: Tensor, *setting: Any) -> Tensor:
        ctx.save_for_backward(regions)
        ctx.shape, ctx.setting = features.shape, setting
        return roi_align(features, regions, *setting)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (regions,) = ctx.saved_tensors
        _, scale, sampling_ratio, aligned = ctx.setting
        with torch.autocast(gradient.device.type, enabled=False):  # sparse products know no bfloat16
            result = pooling_gradient(gradient, regions, ctx.shape, scale, sampling_ratio, aligned)
        return result, None, None, None, None, None


def pooling_gradient(
    gradient: Tensor, regions: Tensor, shape: torch.Size, scale: float, sampling_ratio: int = 0, aligned: bool = True
) -> Tensor:
    """Send the gradient of pooled regions back to the features.

    Args:
        gradient: (R, C, P, Q) float gradient of the pooled regions.
        regions: (R, 5) float, image index and x0, y0, x1, y1, pixels.
        shape: shape (B, C, H, W) of the features.
        scale: feature cells per pixel.
        sampling_ratio: samples of a bin along each side; 0: as many as it is cells long.
        aligned: pixel centres lie at half coordinates.

    Returns:
        (B, C, H, W) float.

    Source: He et al. 2017, Mask R-CNN (arXiv 1703.06870), section 3: the transpose of the bilinear averages.
    """
    count, channels, height, width = shape
    result = gradient.new_zeros(shape)
    bins_y, bins_x = gradient.shape[2:]
    groups = [(regions[:, 0] == image).nonzero()[:, 0].split(REGIONS_AT_ONCE) for image in range(count)]
    for image, rows in ((image, rows) for image, group in enumerate(groups) for rows in group if len(rows)):
        corners = regions[rows, 1:] * scale - (0.5 if aligned else 0.0)
        sampling = (sampling_ratio, aligned)
        weight_y, cell_y = _axis_weights(corners[:, 1], corners[:, 3], bins_y, height, *sampling)
        weight_x, cell_x = _axis_weights(corners[:, 0], corners[:, 2], bins_x, width, *sampling)
        weights = (weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]).reshape(-1)
        cells = (cell_y[:, :, None, :, None] * width + cell_x[:, None, :, None, :]).reshape(-1)
        bins = len(rows) * bins_y * bins_x
        starts = torch.arange(0, len(cells) + 1, len(cells) // bins, dtype=torch.int32)
        size = (height * width, bins)
        matrix = torch.sparse_csc_tensor(starts, cells.int(), weights, size=size, check_invariants=False)
        rows_first = gradient[rows].permute(0, 2, 3, 1).reshape(bins, channels)
        result[image].add_((matrix @ rows_first).t().reshape(channels, height, width))
    return result


def _axis_weights(
    low: Tensor, high: Tensor, bins: int, size: int, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    """Weights of the cells that the samples of every bin read along one side.

    Args:
        low: (R,) float, where the regions begin, cells.
        high: (R,) float, where they end.
        bins: bins of a region along this side.
        size: cells of the feature map along this side.
        sampling_ratio: samples of a bin; 0: as many as it is cells long.
        aligned: regions may be shorter than one cell.

    Returns:
        (R, bins, K) float weights and (R, bins, K) int64 cells; weights beyond the needed cells are 0.
    """
    extent = high - low if aligned else (high - low).clamp(min=1.0)
    step = extent / bins
    counts = torch.full_like(low, sampling_ratio) if sampling_ratio > 0 else step.ceil()
    sample = torch.arange(max(int(counts.max()), 1), dtype=low.dtype)
    share = (1 / counts.clamp(min=1))[:, None, None]
    bin_index = torch.arange(bins, dtype=low.dtype)[None, :, None]
    place = low[:, None, None] + step[:, None, None] * (bin_index + (sample + 0.5) * share)
    used = (sample < counts[:, None, None]) & (place >= -1) & (place <= size)  # samples further outside read 0
    place = place.clamp(0, size - 1)
    left = place.floor()
    part = (place - left).masked_fill(~used, 0)
    share = share * used
    left = left.long()
    right = (left + 1).clamp(max=size - 1)
    first = left.masked_fill(~used, size - 1).amin(-1, keepdim=True)
    width = int((right - first).masked_fill(~used, 0).max()) + 1
    weights = low.new_zeros((len(low), bins, width))
    weights.scatter_add_(2, (left - first).clamp(0, width - 1), share * (1 - part))
    weights.scatter_add_(2, (right - first).clamp(0, width - 1), share * part)
    return weights, (first + torch.arange(width)).clamp(max=size - 1)

"""RoIAlign as a module."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import roi_align


class ROIAlign(nn.Module):
    """Pool regions of a feature map to a fixed size by bilinear sampling.

    Args:
        output_size: (height, width) of the result.
        spatial_scale: feature cells per pixel of the regions' coordinates.
        sampling_ratio: samples for each cell and side; 0 means as many as the region's size asks for.
        aligned: put pixel centres at half coordinates (the later, exact version); False keeps the half-pixel shift.
    """

    def __init__(self, output_size, spatial_scale, sampling_ratio, aligned=True):
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool (N, C, H, W) at rois (R, 5) = image index and corners; gives (R, C, height, width)."""
        if rois.dim() != 2 or rois.shape[1] != 5:
            raise AssertionError(f"Regions are (R, 5), not {tuple(rois.shape)}")
        return roi_align(
            input,
            rois.to(dtype=input.dtype),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )

    def __repr__(self) -> str:
        names = ("output_size", "spatial_scale", "sampling_ratio", "aligned")
        return f"ROIAlign({', '.join(f'{name}={getattr(self, name)}' for name in names)})"

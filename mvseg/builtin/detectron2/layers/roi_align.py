"""RoIAlign as a module."""

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
        self.output_size, self.spatial_scale = output_size, spatial_scale
        self.sampling_ratio, self.aligned = sampling_ratio, aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool (N, C, H, W) at rois (R, 5) = image index and corners; gives (R, C, height, width)."""
        sampling = (self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
        return roi_align(input, rois.to(dtype=input.dtype), *sampling)

    def extra_repr(self) -> str:
        return f"{self.output_size}, scale={self.spatial_scale}, sampling={self.sampling_ratio}, {self.aligned=}"

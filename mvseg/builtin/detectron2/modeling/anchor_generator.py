"""Anchors: reference boxes of several sizes and shapes on the grid of each feature map."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config.config import configurable, read_keys
from ..layers import ShapeSpec
from ..structures import Boxes
from ..utils.registry import Registry

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")
ANCHOR_GENERATOR_REGISTRY.__doc__ = "Callables (cfg, input_shape: list of ShapeSpec), MODEL.ANCHOR_GENERATOR.NAME."


class BufferList(nn.Module):
    """Tensors that move with the module but are not saved."""

    def __init__(self, buffers: Sequence[Tensor]):
        super().__init__()
        for index, buffer in enumerate(buffers):
            self.register_buffer(str(index), buffer, persistent=False)

    def __len__(self):
        return len(self._buffers)

    def __iter__(self):
        return iter(self._buffers.values())


def _create_grid_offsets(
    size: list[int], stride: int, offset: float, target_device_tensor: Tensor
) -> tuple[Tensor, Tensor]:
    """x and y (H * W,) in pixels of the cells of an (H, W) grid, row by row."""
    rows, columns = (
        (torch.arange(length, dtype=torch.float32, device=target_device_tensor.device) + offset) * stride
        for length in size
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return x.reshape(-1), y.reshape(-1)


def _broadcast_params(params, num_features: int, name: str):
    """One list for each feature: a flat list, or a list with one list, is repeated."""
    nested = params if isinstance(params[0], Sequence) else [params]
    if len(nested) not in (1, num_features):
        raise AssertionError(f"Anchor {name} are given for {len(nested)} features, the generator has {num_features}")
    return list(nested) * num_features if len(nested) == 1 else nested


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """Every size with every aspect ratio (Ren et al. 2015)."""

    box_dim: int = 4

    @configurable
    def __init__(self, *, sizes, aspect_ratios, strides, offset=0.5):
        super().__init__()
        if not 0 <= offset < 1:
            raise AssertionError(f"MODEL.ANCHOR_GENERATOR.OFFSET must be in [0, 1), not {offset}")
        self.strides, self.num_features, self.offset = strides, len(strides), offset
        shapes = [_broadcast_params(sizes, self.num_features, "sizes")]
        shapes.append(_broadcast_params(aspect_ratios, self.num_features, "aspect_ratios"))
        self.cell_anchors = self._calculate_anchors(*shapes)

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]):
        options = cfg.MODEL.ANCHOR_GENERATOR
        strides = [shape.stride for shape in input_shape]
        return {**read_keys(options, "SIZES ASPECT_RATIOS OFFSET"), "strides": strides}

    def _calculate_anchors(self, sizes, aspect_ratios) -> BufferList:
        return BufferList([self.generate_cell_anchors(*pair).float() for pair in zip(sizes, aspect_ratios)])

    @property
    def num_cell_anchors(self) -> list[int]:
        """Same as `num_anchors`."""
        return self.num_anchors

    @property
    def num_anchors(self) -> list[int]:
        """Anchors per cell of each feature map."""
        return [len(anchors) for anchors in self.cell_anchors]

    def _grid_anchors(self, grid_sizes: list[list[int]]) -> list[Tensor]:
        """For each feature map (H * W * A, 4), the anchors of one cell together."""
        levels = []
        for size, stride, anchors in zip(grid_sizes, self.strides, self.cell_anchors):
            x, y = _create_grid_offsets(size, stride, self.offset, anchors)
            centres = torch.stack((x, y, x, y), dim=1)
            levels.append((centres[:, None] + anchors).reshape(-1, 4))
        return levels

    def generate_cell_anchors(self, sizes=(32, 64, 128, 256, 512), aspect_ratios=(0.5, 1, 2)) -> Tensor:
        """(sizes * ratios, 4) anchors around the origin, the ratio changing fastest."""
        values = (torch.tensor(numbers, dtype=torch.float64) for numbers in (sizes, aspect_ratios))
        size, ratio = torch.meshgrid(*values, indexing="ij")
        half = torch.stack((size / ratio.sqrt(), size * ratio.sqrt()), dim=-1).reshape(-1, 2) / 2
        return torch.cat((-half, half), dim=1).float()

    def forward(self, features: list[Tensor]) -> list[Boxes]:
        """Anchors of each feature map (N, C, H, W): Boxes of length H * W * A."""
        sizes = [list(feature.shape[-2:]) for feature in features]
        return [Boxes(anchors) for anchors in self._grid_anchors(sizes)]


def build_anchor_generator(cfg, input_shape: list[ShapeSpec]) -> nn.Module:
    """Build MODEL.ANCHOR_GENERATOR.NAME for features of these shapes."""
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)

"""What CenterNet should predict for given boxes: centre cells, Gaussian heatmap and box distances on every level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HEATMAP_FLOOR = 1e-4  # smaller target values become 0


@dataclass(frozen=True)
class CenterNetTargets:
    """Targets of a batch over all M cells, flattened level by level, within a level image by image, then row by row.

    Attributes:
        centers: (P,) int64 cells that hold an object's centre on a level fit for its size; cells may repeat.
        center_classes: (P,) int64 class of these objects.
        heatmap: (M, C) float32 in [0, 1], 1 at every object's centre cell; C = 1 if class-agnostic.
        locations: (K,) int64 cells that predict a box, ascending.
        distances: (K, 4) float32 left, top, right, bottom from there to the sides of the box, in strides of the level.
        images: (M,) int64 index of the image of every cell.
    """

    centers: Tensor
    center_classes: Tensor
    heatmap: Tensor
    locations: Tensor
    distances: Tensor
    images: Tensor


@dataclass(frozen=True)
class Grid:
    """Cells of all levels of one image, level by level.

    Attributes:
        points: (m, 2) float32 x, y of every cell's reference point, pixels.
        strides: (m,) float32 stride of every cell's level, pixels.
        levels: (m,) int64 level index of every cell.
        shapes: height and width of every level, in cells.
    """

    points: Tensor
    strides: Tensor
    levels: Tensor
    shapes: tuple[tuple[int, int], ...]


def make_grid(shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | str = "cpu") -> Grid:
    """Lay out the cells of all levels; the reference point of column j, row i is (j, i) * stride + stride // 2.

    Args:
        shapes: height and width of every level, in cells.
        strides: stride of every level, pixels.
        device: where the tensors shall lie.

    Returns:
        The grid; its ``points`` are (m, 2), m = sum of height * width.

    Source: Zhou et al. 2019, "Objects as Points" (arXiv 1904.07850), section 3, with the half-stride shift of FCOS
    (Tian et al. 2019, arXiv 1904.01355, section 3.1).
    """
    points, cell_strides, levels = [], [], []
    for level, ((height, width), stride) in enumerate(zip(shapes, strides, strict=True)):
        rows, columns = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        points.append(torch.stack([columns, rows], -1).reshape(-1, 2).float() * stride + stride // 2)
        cell_strides.append(torch.full((height * width,), float(stride), device=device))
        levels.append(torch.full((height * width,), level, device=device))
    return Grid(torch.cat(points), torch.cat(cell_strides), torch.cat(levels), tuple((h, w) for h, w in shapes))


def centernet_targets(
    boxes: Sequence[Tensor],
    classes: Sequence[Tensor] | None,
    grid: Grid,
    *,
    size_ranges: Sequence[Sequence[float]],
    min_overlap: float = 0.8,
    min_radius: float = 4.0,
    num_classes: int | None = None,
) -> CenterNetTargets:
    """Build the targets of a batch.

    Args:
        boxes: for every image (N_i, 4) float32 x0, y0, x1, y1, pixels of the network input.
        classes: for every image (N_i,) int64; None means class 0 throughout.
        grid: cells of one image, the same for all images of the batch.
        size_ranges: for every level the half-diagonals (lowest, highest) of the objects it takes, pixels.
        min_overlap: IoU that a box shifted to the Gaussian's radius keeps with the original.
        min_radius: smallest radius, pixels.
        num_classes: C, for one heatmap per class; None for a single class-agnostic heatmap.

    Returns:
        The targets, for M = images * m cells; ``heatmap`` is (M, C).

    Source: Zhou et al. 2019 (arXiv 1904.07850), section 3; assignment to levels by size and 3 x 3 box locations as in
    CenterNet2 (Zhou et al. 2021, arXiv 2103.07461), section 4.
    """
    device = grid.points.device
    ranges = torch.as_tensor(size_ranges, dtype=torch.float32, device=device)
    if classes is None:
        classes = [b.new_zeros(len(b), dtype=torch.long) for b in boxes]
    order = _flattening(grid, len(boxes))
    centers, center_classes, heatmaps, chosen, distances = [], [], [], [], []
    for image_boxes, image_classes, rows in zip(boxes, classes, order, strict=True):
        half_diagonal = (image_boxes[:, 2:] - image_boxes[:, :2]).norm(dim=1) / 2
        fits = (half_diagonal[:, None] >= ranges[:, 0]) & (half_diagonal[:, None] <= ranges[:, 1])  # (N, L)
        cells = _center_cells(image_boxes, grid)  # (N, L)
        nearness = _relative_distance(image_boxes, cells, grid, min_overlap, min_radius)  # (m, N)
        centers.append(rows[cells[fits]])
        center_classes.append(image_classes[fits.nonzero()[:, 0]])
        heatmaps.append(_heatmap(nearness, image_classes, num_classes))
        cell, distance = _box_locations(image_boxes, cells, fits, nearness, grid)
        chosen.append(rows[cell])
        distances.append(distance)
    locations, by_location = torch.cat(chosen).sort()
    flat = torch.cat(order)
    images = torch.arange(len(boxes), device=device).repeat_interleave(len(grid.points))
    return CenterNetTargets(
        centers=torch.cat(centers),
        center_classes=torch.cat(center_classes),
        heatmap=_place(torch.cat(heatmaps), flat),
        locations=locations,
        distances=torch.cat(distances)[by_location],
        images=_place(images, flat),
    )


def _place(values: Tensor, positions: Tensor) -> Tensor:
    return torch.empty_like(values).index_copy_(0, positions, values)


def _flattening(grid: Grid, images: int) -> list[Tensor]:
    """Position of every cell of every image, (m,) each, in the batch's level-major flattening."""
    counts = [h * w for h, w in grid.shapes]
    starts = torch.tensor([sum(counts[:level]) for level in range(len(counts))], device=grid.levels.device)
    sizes = torch.tensor(counts, device=grid.levels.device)
    cell = torch.arange(len(grid.levels), device=grid.levels.device) - starts[grid.levels]
    return [starts[grid.levels] * images + image * sizes[grid.levels] + cell for image in range(images)]


def _center_cells(boxes: Tensor, grid: Grid) -> Tensor:
    """Cell (index into the grid) that holds the centre of each box on each level, (N, L)."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    cells, start = [], 0
    for height, width in grid.shapes:
        stride = grid.strides[start] if height * width else 1.0
        column = (centers[:, 0] / stride).long().clamp(0, max(width - 1, 0))
        row = (centers[:, 1] / stride).long().clamp(0, max(height - 1, 0))
        cells.append(start + row * width + column)
        start += height * width
    return torch.stack(cells, 1)


def _relative_distance(boxes: Tensor, cells: Tensor, grid: Grid, min_overlap: float, min_radius: float) -> Tensor:
    """Squared distance of every cell to every centre over the squared Gaussian radius, (m, N); 0 in centre cells."""
    shrink = (1 - min_overlap) / (1 + min_overlap)
    size = boxes[:, 2:] - boxes[:, :2]
    radius2 = (2 * shrink**2 * size[:, 0] * size[:, 1]).clamp(min=min_radius**2)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    offset = grid.points[:, None, :] - centers[None, :, :]
    distance2 = offset[..., 0] ** 2 + offset[..., 1] ** 2
    return (distance2 / radius2).scatter(0, cells.t(), 0.0)


def _heatmap(nearness: Tensor, classes: Tensor, num_classes: int | None) -> Tensor:
    """Gaussian of the nearest object, (m, C)."""
    columns = 1 if num_classes is None else num_classes
    index = (torch.zeros_like(classes) if num_classes is None else classes).expand(len(nearness), -1)
    nearest = nearness.new_full((len(nearness), columns), torch.inf)
    nearest = nearest.scatter_reduce(1, index, nearness, "amin")
    heatmap = torch.exp(-nearest)
    return heatmap * (heatmap >= HEATMAP_FLOOR)


def _box_locations(boxes: Tensor, cells: Tensor, fits: Tensor, nearness: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Cells within one step of a fitting object's centre cell and inside its box; the nearest object wins."""
    if len(boxes) == 0:
        return cells.new_zeros(0), boxes.new_zeros((0, 4))
    points, strides = grid.points, grid.strides
    sides = torch.cat([points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]], -1)  # (m, N, 4)
    peak = points[cells][:, grid.levels].transpose(0, 1)  # (m, N, 2) reference point of the centre cell on this level
    close = ((points[:, None] - peak).abs() <= strides[:, None, None]).all(-1)
    allowed = close & (sides.amin(-1) > 0) & fits.t()[grid.levels]
    best, winner = torch.where(allowed, nearness, torch.inf).min(1)
    cell = best.isfinite().nonzero()[:, 0]
    return cell, sides[cell, winner[cell]] / strides[cell, None]

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
    starts, heights, widths = _level_tables(grid)
    order = _flattening(grid, len(boxes), starts, heights * widths)
    centers, center_classes, heatmaps, chosen, distances = [], [], [], [], []
    for image_boxes, image_classes, rows in zip(boxes, classes, order, strict=True):
        half_diagonal = (image_boxes[:, 2:] - image_boxes[:, :2]).norm(dim=1) / 2
        fits = (half_diagonal[:, None] >= ranges[:, 0]) & (half_diagonal[:, None] <= ranges[:, 1])  # (N, L)
        cells = _center_cells(image_boxes, grid)  # (N, L)
        nearness = _relative_distance(image_boxes, cells, grid, min_overlap, min_radius)  # (m, N)
        objects, levels = fits.nonzero(as_tuple=True)
        peaks = cells[objects, levels]
        centers.append(rows[peaks])
        center_classes.append(image_classes[objects])
        heatmaps.append(_heatmap(nearness, image_classes, num_classes))
        around, inside = _neighbours(peaks - starts[levels], heights[levels], widths[levels])
        around = around + starts[levels, None]
        cell, distance = _box_locations(image_boxes[objects], objects, around, inside, nearness, grid)
        chosen.append(rows[cell])
        distances.append(distance)
    locations, by_location = torch.cat(chosen).sort()
    flat = torch.cat(order)
    images = torch.arange(len(boxes), device=device)[:, None].expand(-1, len(grid.points)).flatten()
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


def _level_tables(grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """First cell, height and width of every level, (L,) int64 each."""
    counts = [h * w for h, w in grid.shapes]
    starts = [sum(counts[:level]) for level in range(len(counts))]
    table = torch.tensor([starts, *zip(*grid.shapes, strict=True)], device=grid.levels.device)
    return table[0], table[1], table[2]


def _flattening(grid: Grid, images: int, starts: Tensor, sizes: Tensor) -> list[Tensor]:
    """Position of every cell of every image, (m,) each, in the batch's level-major flattening."""
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
    distance2 = (grid.points[:, :1] - centers[:, 0]).square_()  # in place: m * N can be ten million
    distance2 += (grid.points[:, 1:] - centers[:, 1]).square_()
    return distance2.div_(radius2).scatter_(0, cells.t(), 0.0)


def _heatmap(nearness: Tensor, classes: Tensor, num_classes: int | None) -> Tensor:
    """Gaussian of the nearest object, (m, C)."""
    if num_classes is None and len(classes):
        nearest = nearness.amin(1, keepdim=True)
    else:
        nearest = nearness.new_full((len(nearness), num_classes or 1), torch.inf)
        nearest = nearest.scatter_reduce(1, classes.expand(len(nearness), -1), nearness, "amin")
    heatmap = torch.exp(-nearest)
    return heatmap * (heatmap >= HEATMAP_FLOOR)


def _neighbours(cells: Tensor, heights: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (P, 9) of the 3 x 3 cells around P cells of maps of these sizes, and bool (P, 9): inside of the map."""
    steps = torch.arange(-1, 2, device=cells.device)
    heights, widths = heights[:, None, None], widths[:, None, None]
    rows = cells[:, None, None] // widths + steps[:, None]
    columns = cells[:, None, None] % widths + steps
    inside = (rows >= 0) & (rows < heights) & (columns >= 0) & (columns < widths)
    return torch.where(inside, rows * widths + columns, 0).flatten(1), inside.flatten(1)


def _box_locations(
    boxes: Tensor, objects: Tensor, cells: Tensor, allowed: Tensor, nearness: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Allowed cells inside of their boxes, ascending, and the distances to the sides; the nearest object wins.

    Rows are the P pairs of an object and a level fit for it: ``boxes`` (P, 4), ``objects`` (P,) column of ``nearness``,
    ``cells`` and ``allowed`` (P, 9).
    """
    points = grid.points[cells]  # (P, 9, 2)
    sides = torch.cat([points - boxes[:, None, :2], boxes[:, None, 2:] - points], -1)
    taken = (allowed & (sides.amin(-1) > 0)).nonzero(as_tuple=True)
    cell, sides = cells[taken], sides[taken]
    order = nearness[cell, objects[taken[0]]].argsort(stable=True)
    order = order[cell[order].argsort(stable=True)]  # by cell, within a cell the nearest object first
    cell = cell[order]
    first = torch.ones_like(cell, dtype=torch.bool)
    first[1:] = cell[1:] != cell[:-1]
    order = order[first]
    cell = cell[first]
    return cell, sides[order] / grid.strides[cell, None]

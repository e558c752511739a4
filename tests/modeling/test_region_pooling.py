"""The gradient of region pooling as a sparse product, against torchvision's."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import roi_align

from mvseg.modeling.region_pooling import SparseGradientROIAlign, use_sparse_gradient

ODD = [
    [0.0, 10, 10, 10, 10],  # empty
    [1.0, 30, 30, 20, 25],  # turned around
    [0.0, -90, -40, -70, 30],  # outside
    [1.0, 0, 0, 96, 64],  # the whole image
    [0.0, -300, -200, 400, 300],  # larger than it, many samples
    [1.0, 95, 63, 200, 64.5],  # at the corner
    [0.0, 3.25, 4.5, 3.5, 4.75],  # within one cell
]


def regions(count: int, dtype: torch.dtype) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=draw, dtype=dtype) * 110 - 20
    side = torch.rand(count, 2, generator=draw, dtype=dtype) ** 2 * 90
    image = torch.randint(2, (count, 1), generator=draw).to(dtype)
    return torch.cat([torch.tensor(ODD, dtype=dtype), torch.cat([image, corner, corner + side], 1)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("ratio", "aligned"), [(0, True), (2, True), (0, False), (3, False)])
@pytest.mark.parametrize("size", [(7, 7), (3, 5)])
def test_values_and_gradients_are_torchvisions(
    size: tuple[int, int], ratio: int, aligned: bool, dtype: torch.dtype
) -> None:
    boxes = regions(40, dtype)
    features = torch.randn(2, 6, 16, 24, dtype=dtype, requires_grad=True)
    theirs = roi_align(features, boxes, size, 0.25, ratio, aligned)
    ours = SparseGradientROIAlign(size, 0.25, ratio, aligned)(features, boxes)
    assert torch.equal(ours, theirs)
    upstream = torch.randn_like(ours)
    (want,) = torch.autograd.grad(theirs, features, upstream)
    (got,) = torch.autograd.grad(ours, features, upstream)
    tolerance = 1e-11 if dtype == torch.float64 else 1e-5
    assert (got - want).abs().max() <= tolerance * want.abs().max()
    alone = torch.randn(2, 6, 16, 24, dtype=dtype, requires_grad=True)
    layer = SparseGradientROIAlign(size, 0.25, ratio, aligned)
    assert torch.autograd.grad(layer(alone, boxes[:0]).sum(), alone)[0].abs().sum() == 0


def test_regions_are_taken_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, features = regions(20, torch.float64), torch.randn(2, 3, 16, 24, dtype=torch.float64, requires_grad=True)
    layer = SparseGradientROIAlign((7, 7), 0.25, 0, True)
    whole = torch.autograd.grad(layer(features, boxes).square().sum(), features)[0]
    monkeypatch.setattr("mvseg.modeling.region_pooling.REGIONS_AT_ONCE", 4)
    grouped = torch.autograd.grad(layer(features, boxes).square().sum(), features)[0]
    assert (whole - grouped).abs().max() <= 1e-12 * whole.abs().max()


def test_every_level_of_a_pooler_is_exchanged() -> None:
    torch.manual_seed(0)
    plain, exchanged = (ROIPooler(7, (1 / 8, 1 / 16, 1 / 32), 0, "ROIAlignV2") for _ in range(2))
    assert use_sparse_gradient(exchanged) is exchanged
    assert all(isinstance(layer, SparseGradientROIAlign) for layer in exchanged.level_poolers)
    levels = [torch.randn(2, 4, side, side, requires_grad=True) for side in (64, 32, 16)]
    corner = torch.rand(30, 2) * 300
    boxes = [Boxes(torch.cat([corner, corner + torch.rand(30, 2) ** 2 * 500], 1)), Boxes(torch.rand(0, 4))]
    one, two = plain(levels, boxes), exchanged(levels, boxes)
    assert torch.equal(one, two)
    upstream = torch.randn_like(one)
    for want, got in zip(torch.autograd.grad(one, levels, upstream), torch.autograd.grad(two, levels, upstream)):
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_other_poolers_stay() -> None:
    pooler = ROIPooler(7, (1 / 8, 1 / 16), 0, "ROIPool")
    kinds = [type(layer) for layer in pooler.level_poolers]
    use_sparse_gradient(pooler)
    assert [type(layer) for layer in pooler.level_poolers] == kinds

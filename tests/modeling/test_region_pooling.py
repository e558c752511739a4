"""Region pooling as a sparse product, against Detectron2's pooler with torchvision's RoIAlign."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor, nn

from mvseg.modeling.region_pooling import PyramidPooler, use_fast_pooling

ODD = [
    [10, 10, 10, 10],  # empty
    [30, 30, 20, 25],  # turned around
    [-90, -40, -70, 30],  # outside
    [0, 0, 96, 64],  # the whole image
    [-300, -200, 400, 300],  # larger than it, many samples
    [95, 63, 200, 64.5],  # at the corner
    [3.25, 4.5, 3.5, 4.75],  # within one cell
]


def some_boxes(count: int, dtype: torch.dtype) -> list[Boxes]:
    """Boxes of three images, the odd ones in the first and none in the second."""
    draw = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=draw, dtype=dtype) * 110 - 20
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=draw, dtype=dtype) ** 2 * 90], 1)
    parts = (torch.cat([torch.tensor(ODD, dtype=dtype), boxes[::2]]), boxes[:0], boxes[1::2])
    result = [Boxes(torch.zeros(0, 4)) for _ in parts]
    for image, part in zip(result, parts):
        image.tensor = part  # the constructor would make them float32
    return result


def maps(scales: tuple[float, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    sides = [(int(64 * scale), int(96 * scale)) for scale in scales]
    return [torch.randn(3, 6, *side, dtype=dtype, requires_grad=True) for side in sides]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("ratio", "kind"), [(0, "ROIAlignV2"), (2, "ROIAlignV2"), (0, "ROIAlign"), (3, "ROIAlign")])
@pytest.mark.parametrize(("size", "scales"), [((7, 7), (0.25,)), ((3, 5), (0.5, 0.25, 0.125))])
def test_values_and_gradients_are_torchvisions(
    size: tuple[int, int], scales: tuple[float, ...], ratio: int, kind: str, dtype: torch.dtype
) -> None:
    plain = ROIPooler(size, scales, ratio, kind, canonical_box_size=40, canonical_level=2)
    boxes, levels = some_boxes(40, dtype), maps(scales, dtype)
    theirs, ours = plain(levels, boxes), PyramidPooler(plain)(levels, boxes)
    tolerance = 1e-11 if dtype == torch.float64 else 1e-5
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
    upstream = torch.randn_like(ours)
    wanted = torch.autograd.grad(theirs, levels, upstream)
    for want, got in zip(wanted, torch.autograd.grad(ours, levels, upstream), strict=True):
        assert want.abs().max() > 0 and (got - want).abs().max() <= tolerance * want.abs().max()


def test_regions_are_taken_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    levels, pooler = maps((0.5, 0.25)), PyramidPooler(ROIPooler(7, (0.5, 0.25), 0, "ROIAlignV2"))
    boxes = some_boxes(20, torch.float64)
    whole = pooler(levels, boxes)
    monkeypatch.setattr("mvseg.modeling.region_pooling.REGIONS_AT_ONCE", 4)
    assert (pooler(levels, boxes) - whole).abs().max() <= 1e-12


def test_no_regions_give_nothing_and_a_gradient_of_zeros() -> None:
    levels, pooler = maps((0.5, 0.25)), PyramidPooler(ROIPooler(7, (0.5, 0.25), 0, "ROIAlignV2"))
    pooled = pooler(levels, [Boxes(torch.zeros(0, 4)) for _ in range(3)])
    assert pooled.shape == (0, 6, 7, 7)
    assert all(not gradient.any() for gradient in torch.autograd.grad(pooled.sum(), levels))
    outside = pooler(levels, [Boxes(torch.tensor([[-90.0, -90, -70, -70]])) for _ in range(3)])
    assert outside.shape == (3, 6, 7, 7) and not outside.any()


@pytest.mark.parametrize("kind", ["ROIAlignV2", "ROIPool"])  # the latter is left to Detectron2
def test_the_gradient_can_be_shared(kind: str) -> None:
    levels, pooler = maps((0.5, 0.25), torch.float32), PyramidPooler(ROIPooler(7, (0.5, 0.25), 0, kind))
    boxes = some_boxes(20, torch.float32)
    whole = torch.autograd.grad(pooler(levels, boxes).square().sum(), levels)
    third = torch.autograd.grad(pooler(levels, boxes, 1 / 3).square().sum(), levels)
    for one, other in zip(whole, third):
        torch.testing.assert_close(one / 3, other)


def test_every_pooler_below_a_module_is_exchanged_once() -> None:
    module = nn.ModuleDict({"heads": nn.ModuleDict({"pooler": ROIPooler(7, (1 / 8, 1 / 16), 0, "ROIAlignV2")})})
    names = list(module.state_dict())
    use_fast_pooling(module)
    use_fast_pooling(module)
    assert type(module["heads"]["pooler"]) is PyramidPooler
    assert type(module["heads"]["pooler"].pooler) is ROIPooler and list(module.state_dict()) == names

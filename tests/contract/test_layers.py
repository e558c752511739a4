"""Layers against plain torch operations, greedy loops and hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.multiprocessing as mp
from detectron2.layers import (
    CNNBlockBase,
    Conv2d,
    FrozenBatchNorm2d,
    NaiveSyncBatchNorm,
    ROIAlign,
    ShapeSpec,
    batched_nms,
    cat,
    ciou_loss,
    cross_entropy,
    diou_loss,
    get_norm,
    nonzero_tuple,
    shapes_to_tensor,
)
from torch import nn
from torch.nn import functional as F


def test_conv2d_runs_convolution_norm_activation():
    conv = Conv2d(3, 4, 3, padding=1, bias=False, norm=get_norm("BN", 4), activation=F.relu)
    conv.norm.running_mean.fill_(0.1)
    conv.eval()
    x = torch.randn(2, 3, 5, 6)
    plain = F.relu((F.conv2d(x, conv.weight, padding=1) - 0.1) / math.sqrt(1 + 1e-5))
    torch.testing.assert_close(conv(x), plain)
    assert set(conv.state_dict()) > {"weight", "norm.weight", "norm.running_var"}
    assert conv(x[:0]).shape == (0, 4, 5, 6)


def test_frozen_batch_norm_is_batch_norm_in_eval_mode():
    norm = nn.BatchNorm2d(3, eps=1e-3)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 1.5)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(nn.Sequential(nn.Conv2d(3, 3, 1), norm))[1]
    assert isinstance(frozen, FrozenBatchNorm2d)
    assert not list(frozen.parameters())
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    expected = norm.eval()(x)
    torch.testing.assert_close(frozen(x.detach()), expected)
    torch.testing.assert_close(frozen(x), expected)
    (gradient,) = torch.autograd.grad(frozen(x).sum(), x)
    scale = norm.weight / (norm.running_var + 1e-3).sqrt()
    torch.testing.assert_close(gradient, scale.detach().view(1, 3, 1, 1).expand_as(x))


def test_frozen_batch_norm_reads_old_state_dicts():
    fresh = FrozenBatchNorm2d(2)
    x = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(fresh(x), x)
    old = {"weight": torch.tensor([2.0, 3.0]), "bias": torch.tensor([1.0, 0.0])}
    # Version 1 held no statistics.
    loaded = FrozenBatchNorm2d(2)
    loaded.running_mean.fill_(9)
    loaded.load_state_dict(old)
    assert loaded.running_mean.tolist() == [0, 0]
    expected = x * torch.tensor([2.0, 3.0]).view(1, 2, 1, 1) + torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(loaded(x), expected, rtol=1e-4, atol=1e-4)
    assert fresh.state_dict()._metadata[""]["version"] == 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [("BN", nn.BatchNorm2d), ("SyncBN", nn.SyncBatchNorm), ("FrozenBN", FrozenBatchNorm2d), ("GN", nn.GroupNorm)],
)
def test_get_norm_by_name(name, kind):
    assert type(get_norm(name, 64)) is kind


def test_get_norm_special_cases():
    assert get_norm("", 64) is None
    assert isinstance(get_norm(lambda channels: nn.GroupNorm(2, channels), 4), nn.GroupNorm)
    with pytest.raises(KeyError):
        get_norm("batch", 4)
    x = torch.randn(2, 8, 3, 3)
    normal = get_norm("LN", 8)(x)
    torch.testing.assert_close(normal.mean(1), torch.zeros(2, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.var(1, unbiased=False), torch.ones(2, 3, 3), atol=1e-3, rtol=0)


def test_block_base_freezes_norms_and_parameters():
    block = CNNBlockBase(3, 4, 2)
    block.conv = Conv2d(3, 4, 1, norm=get_norm("BN", 4))
    assert block.freeze() is block
    assert isinstance(block.conv.norm, FrozenBatchNorm2d)
    assert not any(parameter.requires_grad for parameter in block.parameters())


def greedy_nms(boxes, scores, classes, threshold):
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        x0, y0, x1, y1 = boxes[index].tolist()
        for other in kept:
            a0, b0, a1, b1 = boxes[other].tolist()
            inter = max(min(x1, a1) - max(x0, a0), 0) * max(min(y1, b1) - max(y0, b0), 0)
            union = (x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - inter
            if classes[index] == classes[other] and inter / union > threshold:
                break
        else:
            kept.append(index)
    return kept


def test_batched_nms_is_greedy_within_classes():
    corner = torch.rand(60, 2) * 20
    boxes = torch.cat((corner, corner + 5 + torch.rand(60, 2) * 10), dim=1)
    scores, classes = torch.rand(60), torch.randint(0, 3, (60,))
    kept = batched_nms(boxes, scores, classes, 0.4).tolist()
    assert 3 < len(kept) < 60
    assert kept == greedy_nms(boxes, scores, classes, 0.4)


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_reads_a_plane_at_cell_centres(aligned):
    # Bilinear sampling of 2x + 3y is exact, and the mean over a cell is the value at its centre.
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing="ij")
    plane = (2 * (x + 0.5) + 3 * (y + 0.5))[None, None]
    roi = torch.tensor([[0.0, 8.0, 12.0, 32.0, 28.0]])
    pooled = ROIAlign((2, 4), 0.5, 2, aligned=aligned)(plane, roi)[0, 0]
    centre_x = 4 + 3 * (torch.arange(4) + 0.5)
    centre_y = 6 + 4 * (torch.arange(2) + 0.5)
    shift = 0.0 if aligned else 0.5
    expected = 2 * (centre_x + shift) + 3 * (centre_y[:, None] + shift)
    torch.testing.assert_close(pooled, expected)


def test_distance_and_complete_iou_losses_by_hand():
    # Boxes 4 x 2 and 2 x 2: overlap 1, union 11, enclosing box 5 x 3, centre distance (2, 1).
    first = torch.tensor([[0.0, 0.0, 4.0, 2.0]], dtype=torch.float64)
    second = torch.tensor([[3.0, 1.0, 5.0, 3.0]], dtype=torch.float64)
    iou = 1 / 11
    diou = 1 - iou + (2**2 + 1**2) / (25 + 9)
    v = 4 / math.pi**2 * (math.atan(1.0) - math.atan(2.0)) ** 2
    ciou = diou + v * v / (1 - iou + v)
    assert diou_loss(first, second).item() == pytest.approx(diou, abs=1e-6)
    assert ciou_loss(first, second).item() == pytest.approx(ciou, abs=1e-6)
    assert diou_loss(first, second, reduction="sum").shape == ()
    assert diou_loss(first[:0], second[:0], reduction="mean").item() == 0


def test_small_helpers():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.int64), reduction="mean")
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.shape == (0, 3)
    assert cross_entropy(torch.zeros(2, 4), torch.tensor([1, 2])).item() == pytest.approx(math.log(4))
    tensor = torch.rand(2, 2)
    assert cat([tensor]) is tensor
    assert cat([tensor, tensor], dim=1).shape == (2, 4)
    assert [index.tolist() for index in nonzero_tuple(torch.tensor([[0, 1], [1, 0]]))] == [[0, 1], [1, 0]]
    assert shapes_to_tensor([3, 4]).tolist() == [3, 4]
    assert ShapeSpec(channels=3, stride=4) == ShapeSpec(3, None, None, 4)


def _sync_worker(rank: int, address: str, results) -> None:
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    if hasattr(torch.distributed, "GroupMember"):
        from detectron2.utils import comm

        if hasattr(comm, "create_local_process_group"):
            comm.create_local_process_group(2)
    torch.manual_seed(0)
    x = torch.randn(6, 2, 3, 3)
    own = (x[:3] if rank == 0 else x[3:]).clone().requires_grad_()
    norm = NaiveSyncBatchNorm(2)
    out = norm(own)
    (out * out * out).sum().backward()
    results[rank] = (out.detach().numpy(), own.grad.numpy(), norm.running_mean.numpy())
    torch.distributed.destroy_process_group()


def test_naive_sync_batch_norm_of_two_processes_sees_all_images(tmp_path):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_sync_worker, (f"file://{tmp_path}/rendezvous", results), nprocs=2)
        parts = [results[0], results[1]]
    torch.manual_seed(0)
    x = torch.randn(6, 2, 3, 3, requires_grad=True)
    norm = nn.BatchNorm2d(2)
    expected = norm(x)
    (expected * expected * expected).sum().backward()
    for index, reference in ((0, expected.detach()), (1, x.grad)):
        both = torch.cat([torch.from_numpy(part[index]) for part in parts])
        torch.testing.assert_close(both, reference, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(parts[0][2]), norm.running_mean)
    alone = NaiveSyncBatchNorm(2)
    torch.testing.assert_close(alone(x.detach()), expected.detach())

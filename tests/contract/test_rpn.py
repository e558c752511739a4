"""Anchors, proposals and the losses of the region proposal network, by hand and by brute force."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator, build_proposal_generator, detector_postprocess
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.proposal_generator.proposal_utils import (
    add_ground_truth_to_proposals,
    find_top_rpn_proposals,
)
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import nn


def test_anchors_by_hand():
    generator = DefaultAnchorGenerator(sizes=[[32]], aspect_ratios=[[1.0, 4.0]], strides=[16])
    (anchors,) = generator([torch.zeros(1, 3, 2, 3)])
    assert len(anchors) == 2 * 3 * 2
    assert generator.num_anchors == [2]
    # Ratio is height over width: 16 x 64 for 4. Cells run row by row, with the anchors of a cell together.
    expected = [[8 - 16, 8 - 16, 8 + 16, 8 + 16], [8 - 8, 8 - 32, 8 + 8, 8 + 32], [24 - 16, 8 - 16, 24 + 16, 8 + 16]]
    torch.testing.assert_close(anchors.tensor[:3], torch.tensor(expected).float())
    torch.testing.assert_close(anchors.tensor[6].tolist(), [-8.0, 8.0, 24.0, 40.0])
    assert not generator.state_dict()


def test_anchors_of_config_and_broadcast():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64]], "MODEL.ANCHOR_GENERATOR.OFFSET", 0.0])
    generator = build_anchor_generator(cfg, [ShapeSpec(stride=4), ShapeSpec(stride=8)])
    assert generator.num_anchors == [6, 6]
    first, second = generator([torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 1)])
    torch.testing.assert_close(first.get_centers()[[0, 6]], torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    torch.testing.assert_close(first.tensor[:6], second.tensor)
    areas = first.area()[:6].sqrt()
    torch.testing.assert_close(areas, torch.tensor([32.0] * 3 + [64.0] * 3))
    with pytest.raises(AssertionError):
        DefaultAnchorGenerator(sizes=[[1], [2], [3]], aspect_ratios=[[1]], strides=[4, 8])


def make_rpn(**changes) -> RPN:
    settings = {
        "in_features": ["fine", "coarse"],
        "head": StandardRPNHead(in_channels=4, num_anchors=2),
        "anchor_generator": DefaultAnchorGenerator(sizes=[[8], [16]], aspect_ratios=[[0.5, 2.0]], strides=[4, 8]),
        "anchor_matcher": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        "box2box_transform": Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        "batch_size_per_image": 16,
        "positive_fraction": 0.5,
        "pre_nms_topk": (50, 20),
        "post_nms_topk": (30, 10),
        "nms_thresh": 0.7,
    }
    return RPN(**{**settings, **changes})


class Oracle(nn.Module):
    """A head that finds an object at one anchor of each level, and moves it by a known offset."""

    def __init__(self, places, delta=(0.0, 0.0, 0.0, 0.0)):
        super().__init__()
        self.places, self.delta = places, delta

    def forward(self, features):
        logits, deltas = [], []
        for feature, (y, x, anchor) in zip(features, self.places):
            number, _, height, width = feature.shape
            logit = torch.full((number, 2, height, width), -5.0)
            logit[:, anchor, y, x] = 5
            delta = torch.zeros(number, 8, height, width)
            delta[:, 4 * anchor : 4 * anchor + 4, y, x] = torch.tensor(self.delta)
            logits.append(logit)
            deltas.append(delta)
        return logits, deltas


def two_levels(images: int = 2) -> dict[str, torch.Tensor]:
    return {"fine": torch.randn(images, 4, 8, 8), "coarse": torch.randn(images, 4, 4, 4)}


def test_proposals_come_from_the_anchor_that_scores():
    rpn = make_rpn(head=Oracle([(3, 5, 1), (2, 1, 0)], delta=(0.5, 0.0, 0.0, math.log(2)))).eval()
    proposals, losses = rpn(ImageList(torch.zeros(2, 3, 32, 32), [(32, 32), (32, 32)]), two_levels())
    assert losses == {}
    # Fine: ratio 2 at size 8, centre (22, 14); coarse: ratio 0.5 at size 16, centre (12, 20).
    expected = []
    for x, y, size, ratio in ((22, 14, 8, 2.0), (12, 20, 16, 0.5)):
        width, height = size / ratio**0.5, size * ratio**0.5
        x, height = x + width / 2, height * 2
        expected.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    expected = torch.tensor(expected).clamp(0, 32)
    for image in proposals:
        assert len(image) <= 10
        torch.testing.assert_close(image.proposal_boxes.tensor[:2], expected)
        assert image.objectness_logits[:2].tolist() == [5, 5]
        assert (image.objectness_logits[2:] == -5).all()


def test_rpn_labels_and_samples():
    rpn = make_rpn(anchor_boundary_thresh=0)
    anchors = rpn.anchor_generator(list(two_levels().values()))
    everywhere = Boxes.cat(anchors)
    truth = Instances((32, 32), gt_boxes=Boxes(everywhere.tensor[[50]] + 0.3))
    nothing = Instances((32, 32), gt_boxes=Boxes(torch.zeros(0, 4)))
    labels, boxes = rpn.label_and_sample_anchors(anchors, [truth, nothing])
    assert labels[0][50] == 1
    torch.testing.assert_close(boxes[0][50], truth.gt_boxes.tensor[0])
    inside = everywhere.inside_box((32, 32))
    for label in labels:
        assert (label >= 0).sum() == 16
        assert (label[~inside] == -1).all()
    assert (labels[1] == 1).sum() == 0
    assert boxes[1].shape == everywhere.tensor.shape


def test_rpn_losses_by_hand():
    rpn = make_rpn(loss_weight={"loss_rpn_cls": 1.0, "loss_rpn_loc": 3.0}, in_features=["fine"], batch_size_per_image=4)
    anchors = [Boxes(torch.tensor([[0.0, 0.0, 8.0, 8.0], [4.0, 4.0, 12.0, 12.0], [0.0, 0.0, 4.0, 4.0]]))]
    logits = torch.tensor([[0.4, -1.0, 2.0]], dtype=torch.float64)
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 0, 2] = 0.25
    with EventStorage() as storage:
        losses = rpn.losses(
            anchors, [logits], [torch.tensor([1, 0, -1])], [deltas], [anchors[0].tensor + torch.tensor([2.0, 0, 2, 0])]
        )
        assert storage.latest()["rpn/num_pos_anchors"][0] == 1
        assert storage.latest()["rpn/num_neg_anchors"][0] == 1
    objectness = math.log(1 + math.exp(-0.4)) + math.log(1 + math.exp(-1.0))
    assert losses["loss_rpn_cls"].item() == pytest.approx(objectness / 4, rel=1e-5)
    # The truth lies 2 of 8 pixels to the right: offset (0.25, 0, 0, 0) against (0, 0, 0.25, 0), L1.
    assert losses["loss_rpn_loc"].item() == pytest.approx(3 * 0.5 / 4, rel=1e-5)


def test_rpn_trains_and_gives_constant_proposals():
    rpn = make_rpn()
    features = two_levels()
    truth = [Instances((32, 32), gt_boxes=Boxes(torch.tensor([[4.0, 4.0, 14.0, 10.0]])))] * 2
    images = ImageList(torch.zeros(2, 3, 32, 32), [(32, 32), (30, 28)])
    with EventStorage():
        proposals, losses = rpn(images, features, truth)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in rpn.parameters())
    assert not proposals[0].proposal_boxes.tensor.requires_grad
    assert len(proposals[0]) <= 30
    assert (proposals[1].proposal_boxes.tensor[:, 2] <= 28).all()
    assert (proposals[1].proposal_boxes.tensor[:, 3] <= 30).all()
    with pytest.raises(AssertionError):
        rpn(images, features)


def test_rpn_of_config():
    cfg = get_cfg()
    shapes = {"res4": ShapeSpec(channels=8, stride=16)}
    rpn = build_proposal_generator(cfg, shapes)
    assert set(rpn.state_dict()) == {
        f"rpn_head.{layer}.{kind}"
        for layer in ("conv", "objectness_logits", "anchor_deltas")
        for kind in ("weight", "bias")
    }
    assert rpn.rpn_head.objectness_logits.weight.shape == (15, 8, 1, 1)
    assert rpn.rpn_head.conv.weight.std().item() == pytest.approx(0.01, rel=0.2)
    cfg.MODEL.RPN.CONV_DIMS = [-1, 6]
    deep = build_proposal_generator(cfg, shapes)
    assert deep.rpn_head.conv.conv1.weight.shape == (6, 8, 3, 3)
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    assert build_proposal_generator(cfg, shapes) is None


def test_top_proposals():
    square = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    # Level 0: two that overlap, one far away, one tiny. Level 1: the same box again, which is no rival there.
    level0 = torch.cat((square, square + 1, square + 50, torch.tensor([[5.0, 5.0, 5.5, 5.5]])))[None]
    level1 = square[None]
    scores = [torch.tensor([[0.9, 0.8, 0.7, 0.95]]), torch.tensor([[0.1]])]
    (found,) = find_top_rpn_proposals([level0, level1], scores, [(55, 100)], 0.5, 10, 10, 1.0, False)
    assert found.objectness_logits.tolist() == pytest.approx([0.9, 0.7, 0.1])
    assert found.proposal_boxes.tensor[1].tolist() == [50, 50, 60, 55]
    (found,) = find_top_rpn_proposals([level0, level1], scores, [(55, 100)], 0.5, 1, 1, 0.0, False)
    assert found.objectness_logits.tolist() == pytest.approx([0.95])


def test_divergence_is_an_error_in_training_only():
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, float("nan"), 10.0]]])
    arguments = ([boxes], [torch.zeros(1, 2)], [(20, 20)], 0.5, 10, 10, 0.0)
    assert len(find_top_rpn_proposals(*arguments, False)[0]) == 1
    with pytest.raises(FloatingPointError):
        find_top_rpn_proposals(*arguments, True)


def test_ground_truth_joins_the_proposals():
    proposals = Instances((9, 9), proposal_boxes=Boxes(torch.zeros(2, 4)), objectness_logits=torch.zeros(2))
    truth = Instances((9, 9), gt_boxes=Boxes(torch.ones(1, 4)), gt_classes=torch.tensor([3]))
    for given in (truth, truth.gt_boxes):
        (joined,) = add_ground_truth_to_proposals([given], [proposals])
        assert joined.proposal_boxes.tensor.sum(1).tolist() == [0, 0, 4]
        assert joined.objectness_logits[2].item() == pytest.approx(math.log(1e10), rel=1e-3)
        assert set(joined.get_fields()) == {"proposal_boxes", "objectness_logits"}
    assert len(proposals) == 2


def test_postprocessing_scales_and_drops():
    results = Instances((10, 20), scores=torch.tensor([0.9, 0.8]))
    results.pred_boxes = Boxes(torch.tensor([[2.0, 1.0, 6.0, 5.0], [20.0, 0.0, 20.0, 9.0]]))
    results.pred_masks = torch.ones(2, 1, 28, 28)
    scaled = detector_postprocess(results, 30, 40)
    assert scaled.image_size == (30, 40)
    assert scaled.pred_boxes.tensor.tolist() == [[4, 3, 12, 15]]
    assert scaled.scores.tolist() == pytest.approx([0.9])
    expected = torch.zeros(1, 30, 40, dtype=torch.bool)
    expected[0, 3:15, 4:12] = True
    assert torch.equal(scaled.pred_masks, expected)


def test_semantic_postprocessing_cuts_the_padding():
    scores = torch.zeros(2, 8, 8)
    scores[:, :4, :6] = 1
    torch.testing.assert_close(sem_seg_postprocess(scores, (4, 6), 12, 9), torch.ones(2, 12, 9))

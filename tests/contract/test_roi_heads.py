"""Heads on regions: sampling, losses, detection, masks and the cascade, by hand and by brute force."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    select_foreground_proposals,
)
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.modeling.roi_heads.fast_rcnn import _log_classification_stats, fast_rcnn_inference
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

CLASSES = 3


def random_boxes(number: int, side: float = 60.0) -> torch.Tensor:
    corner = torch.rand(number, 2) * side / 2
    return torch.cat((corner, corner + 8 + torch.rand(number, 2) * side / 3), dim=1)


def predictor(**options) -> FastRCNNOutputLayers:
    settings = {"box2box_transform": Box2BoxTransform((1.0, 1.0, 1.0, 1.0)), "num_classes": CLASSES}
    return FastRCNNOutputLayers(ShapeSpec(channels=4), **{**settings, **options})


def regions(classes: list[int]) -> Instances:
    """Proposals of one image that have been labelled."""
    number = len(classes)
    return Instances(
        (64, 64),
        proposal_boxes=Boxes(random_boxes(number)),
        gt_boxes=Boxes(random_boxes(number)),
        gt_classes=torch.tensor(classes),
    )


def test_softmax_and_box_losses():
    head = predictor(loss_weight={"loss_box_reg": 2.0})
    proposals = [regions([0, 3, 2]), regions([3, 1])]
    logits, deltas = torch.randn(5, 4), torch.randn(5, 12)
    with EventStorage():
        losses = head.losses((logits, deltas), proposals)
    classes = [0, 3, 2, 3, 1]
    expected = sum(-logits[row].double().log_softmax(0)[c] for row, c in enumerate(classes)) / 5
    assert losses["loss_cls"].item() == pytest.approx(expected.item(), rel=1e-5)
    source = Boxes.cat([image.proposal_boxes for image in proposals]).tensor
    target = Boxes.cat([image.gt_boxes for image in proposals]).tensor
    exact = head.box2box_transform.get_deltas(source, target)
    error = sum(
        (deltas[row, 4 * c : 4 * c + 4] - exact[row]).abs().double().sum() for row, c in enumerate(classes) if c < 3
    )
    # Divided by all five regions, not by the three of the foreground.
    assert losses["loss_box_reg"].item() == pytest.approx(2 * error.item() / 5, rel=1e-5)


def test_losses_without_any_region():
    head = predictor(cls_agnostic_bbox_reg=True)
    with EventStorage():
        losses = head.losses(head(torch.zeros(0, 4)), [regions([])])
    sum(losses.values()).backward()
    assert [loss.item() for loss in losses.values()] == [0, 0]


def test_sigmoid_loss_leaves_the_background_out():
    head = predictor(use_sigmoid_ce=True)
    logits = torch.randn(4, 4)
    classes = torch.tensor([1, 3, 0, 2])
    target = torch.zeros(4, 3)
    target[0, 1] = target[2, 0] = target[3, 2] = 1
    expected = F.binary_cross_entropy_with_logits(logits[:, :3], target, reduction="sum") / 4
    torch.testing.assert_close(head.sigmoid_cross_entropy_loss(logits, classes), expected)


def test_federated_loss_counts_sampled_classes_only():
    weight = torch.zeros(40)
    weight[[5, 7, 9]] = 1.0
    head = predictor(
        num_classes=40,
        use_sigmoid_ce=True,
        use_fed_loss=True,
        get_fed_loss_cls_weights=lambda: weight,
        fed_loss_num_classes=5,
    )
    classes = torch.tensor([2, 40, 5, 2])
    chosen = head.get_fed_loss_classes(classes, 5, 40, weight).tolist()
    # Present: 2, 5 and the background; only 7 and 9 have any chance to be added.
    assert sorted(chosen) == [2, 5, 7, 9, 40]
    assert sorted(head.get_fed_loss_classes(classes, 2, 40, weight).tolist()) == [2, 5, 40]
    logits = torch.randn(4, 41)
    target = torch.zeros(4, 40)
    target[[0, 2, 3], [2, 5, 2]] = 1
    columns = [2, 5, 7, 9]
    expected = F.binary_cross_entropy_with_logits(logits[:, columns], target[:, columns], reduction="sum") / 4
    torch.testing.assert_close(head.sigmoid_cross_entropy_loss(logits, classes), expected)
    with pytest.raises(AssertionError):
        predictor(use_fed_loss=True, get_fed_loss_cls_weights=lambda: weight)


def test_predictions_are_split_by_image():
    head = predictor()
    proposals = [regions([0, 3]), regions([1, 1, 2])]
    features = torch.randn(5, 4)
    predictions = head(features)
    boxes, scores = head.predict_boxes(predictions, proposals), head.predict_probs(predictions, proposals)
    assert [b.shape for b in boxes] == [(2, 12), (3, 12)]
    torch.testing.assert_close(torch.cat(scores), predictions[0].softmax(1))
    own = head.predict_boxes_for_gt_classes(predictions, proposals)
    torch.testing.assert_close(own[1][2], boxes[1][2, 8:12])
    sigmoid = predictor(use_sigmoid_ce=True).predict_probs(predictions, proposals)
    torch.testing.assert_close(torch.cat(sigmoid), predictions[0].sigmoid())


def test_detection_by_brute_force():
    boxes = random_boxes(20 * CLASSES, 120).view(20, -1)
    scores = torch.rand(20, CLASSES + 1)
    scores[4, 1] = float("inf")
    (found,), (rows,) = fast_rcnn_inference([boxes], [scores], [(80, 70)], 0.5, 0.4, 12)
    candidates = sorted(
        ((scores[r, c].item(), r, c) for r in range(20) if r != 4 for c in range(CLASSES) if scores[r, c] > 0.5),
        reverse=True,
    )
    kept: list[tuple[float, int, int, list[float]]] = []
    for score, r, c in candidates:
        x0, y0, x1, y1 = boxes[r, 4 * c : 4 * c + 4].clamp(min=0).tolist()
        box = [min(x0, 70), min(y0, 80), min(x1, 70), min(y1, 80)]
        if all(c != other or overlap(box, other_box) <= 0.4 for _, _, other, other_box in kept):
            kept.append((score, r, c, box))
    kept = kept[:12]
    assert found.scores.tolist() == pytest.approx([score for score, *_ in kept])
    assert rows.tolist() == [r if r < 4 else r - 1 for _, r, _, _ in kept]
    assert found.pred_classes.tolist() == [c for _, _, c, _ in kept]
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([box for *_, box in kept]))


def overlap(a, b) -> float:
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return inter / max(sum(areas) - inter, 1e-9)


def test_detection_keeps_everything_or_nothing():
    boxes, scores = random_boxes(5), torch.full((5, CLASSES + 1), 0.3)
    (found,), _ = fast_rcnn_inference([boxes], [scores], [(100, 100)], 0.1, 1.0, -1)
    assert len(found) == 5 * CLASSES
    (found,), (rows,) = fast_rcnn_inference([boxes], [scores], [(100, 100)], 0.9, 1.0, 10)
    assert len(found) == len(rows) == 0


def test_classification_statistics():
    logits = F.one_hot(torch.tensor([0, 1, 3, 3, 0]), 4).float()
    with EventStorage() as storage:
        _log_classification_stats(logits, torch.tensor([0, 2, 1, 3, 3]), "head")
        latest = {name: value for name, (value, _) in storage.latest().items()}
    expected = {"head/cls_accuracy": 0.4, "head/fg_cls_accuracy": 1 / 3, "head/false_negative": 1 / 3}
    assert latest == pytest.approx(expected)


def test_box_head_layers_and_shapes():
    head = FastRCNNConvFCHead(ShapeSpec(channels=4, height=7, width=7), conv_dims=[6], fc_dims=[8, 5], conv_norm="BN")
    assert [name for name, _ in head.named_children()] == ["conv1", "flatten", "fc1", "fc_relu1", "fc2", "fc_relu2"]
    assert head.fc1.weight.shape == (8, 6 * 7 * 7)
    assert head.conv1.bias is None
    assert head.output_shape.channels == 5
    out = head(torch.randn(3, 4, 7, 7))
    assert out.shape == (3, 5)
    assert (out >= 0).all()
    only_conv = FastRCNNConvFCHead(ShapeSpec(channels=4, height=7, width=7), conv_dims=[6], fc_dims=[])
    assert (only_conv.output_shape.height, only_conv.output_shape.channels) == (7, 6)
    with pytest.raises(AssertionError):
        FastRCNNConvFCHead(ShapeSpec(channels=4, height=7, width=7), conv_dims=[], fc_dims=[])


def test_mask_loss_reads_the_true_class_inside_the_box():
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[0, :, :20] = True
    masks[1, :20] = True
    # Box 10..30: mask 0 covers its left half, mask 1 its upper half.
    image = Instances(
        (40, 40),
        gt_masks=BitMasks(masks),
        gt_classes=torch.tensor([2, 0]),
        proposal_boxes=Boxes(torch.tensor([[10.0, 10.0, 30.0, 30.0]] * 2)),
    )
    target = torch.zeros(2, 4, 4)
    target[0, :, :2] = 1
    target[1, :2] = 1
    logits = torch.randn(2, CLASSES, 4, 4)
    with EventStorage() as storage:
        loss = mask_rcnn_loss(logits, [image, image[:0]])
        accuracy = storage.latest()["mask_rcnn/accuracy"][0]
        agnostic = mask_rcnn_loss(logits[:, 1:2], [image])
    picked = torch.stack((logits[0, 2], logits[1, 0]))
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(picked, target))
    assert accuracy == pytest.approx(((picked > 0) == target.bool()).float().mean().item())
    torch.testing.assert_close(agnostic, F.binary_cross_entropy_with_logits(logits[:, 1], target))


def test_mask_loss_without_regions_is_zero():
    logits = torch.zeros(0, 3, 14, 14, requires_grad=True)
    empty = Instances((9, 9), gt_masks=BitMasks(torch.zeros(0, 9, 9)), gt_classes=torch.zeros(0).long())
    empty.proposal_boxes = Boxes(torch.zeros(0, 4))
    with EventStorage():
        mask_rcnn_loss(logits, [empty]).backward()
    assert logits.grad.shape == logits.shape


def test_mask_inference_picks_the_predicted_class():
    logits = torch.randn(3, CLASSES, 4, 4)
    images = [Instances((9, 9), pred_classes=torch.tensor([2, 0])), Instances((9, 9), pred_classes=torch.tensor([1]))]
    mask_rcnn_inference(logits, images)
    torch.testing.assert_close(images[0].pred_masks, torch.stack((logits[0, 2], logits[1, 0]))[:, None].sigmoid())
    torch.testing.assert_close(images[1].pred_masks[0, 0], logits[2, 1].sigmoid())


def test_mask_head_layers():
    head = MaskRCNNConvUpsampleHead(ShapeSpec(channels=4), num_classes=CLASSES, conv_dims=[6, 6, 5], loss_weight=2.0)
    names = [name for name, _ in head.named_children()]
    assert names == ["mask_fcn1", "mask_fcn2", "deconv", "deconv_relu", "predictor"]
    assert head.layers(torch.zeros(2, 4, 7, 7)).shape == (2, CLASSES, 14, 14)
    assert head.loss_weight == 2.0


def test_foreground_selection():
    image = Instances((9, 9), gt_classes=torch.tensor([0, 3, -1, 2]))
    (found,), (mask,) = select_foreground_proposals([image], bg_label=3)
    assert found.gt_classes.tolist() == [0, 2]
    assert mask.tolist() == [True, False, False, True]


def test_gradient_scaling():
    x = torch.ones(3, requires_grad=True)
    y = _ScaleGradient.apply(x, 0.25)
    (y * 2).sum().backward()
    assert torch.equal(y, x)
    assert x.grad.tolist() == [0.5] * 3


def heads_config(name: str, *options):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.ROI_HEADS.NAME", name, "MODEL.ROI_HEADS.NUM_CLASSES", CLASSES, "MODEL.MASK_ON", True),
            *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3"], "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
            *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 1),
            *("MODEL.ROI_BOX_HEAD.FC_DIM", 8, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 3),
            *("MODEL.ROI_MASK_HEAD.CONV_DIM", 4, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 4),
            *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
            *options,
        ]
    )
    return cfg


SHAPES = {"p2": ShapeSpec(channels=4, stride=4), "p3": ShapeSpec(channels=4, stride=8)}


def batch(number_of_objects=(3, 0)):
    """Images, features, proposals and ground truth of two images."""
    features = {"p2": torch.randn(2, 4, 16, 16, requires_grad=True), "p3": torch.randn(2, 4, 8, 8, requires_grad=True)}
    proposals, targets = [], []
    for number in number_of_objects:
        boxes = random_boxes(number)
        targets.append(
            Instances(
                (64, 64),
                gt_boxes=Boxes(boxes),
                gt_classes=torch.randint(0, CLASSES, (number,)),
                gt_masks=BitMasks(torch.ones(number, 64, 64)),
                note=list(range(number)),
            )
        )
        near = Boxes(torch.cat((boxes + torch.randn(number, 4), random_boxes(40))))
        near.clip((64, 64))
        proposals.append(Instances((64, 64), proposal_boxes=near, objectness_logits=torch.zeros(len(near))))
    return ImageList(torch.zeros(2, 3, 64, 64), [(64, 64)] * 2), features, proposals, targets


def test_proposals_are_labelled_and_sampled():
    heads = build_roi_heads(heads_config("StandardROIHeads"), SHAPES)
    _, _, proposals, targets = batch()
    with EventStorage() as storage:
        sampled = heads.label_and_sample_proposals(proposals, targets)
        assert storage.latest()["roi_head/num_fg_samples"][0] + storage.latest()["roi_head/num_bg_samples"][0] == 16
    assert [len(image) for image in sampled] == [16, 16]
    assert (sampled[1].gt_classes == CLASSES).all()
    assert not sampled[1].has("gt_boxes")
    foreground = sampled[0].gt_classes < CLASSES
    # At most a quarter, in front, and the appended ground truth makes sure that there are some.
    assert foreground.tolist() == [True] * int(foreground.sum()) + [False] * int((~foreground).sum())
    assert 3 <= foreground.sum() <= 4
    for row in foreground.nonzero().flatten().tolist():
        box, truth = sampled[0].proposal_boxes.tensor[row].tolist(), sampled[0].gt_boxes.tensor[row].tolist()
        assert overlap(box, truth) >= 0.5
    assert not sampled[0].has("note")
    assert sampled[0].gt_masks.tensor.shape == (16, 64, 64)


@pytest.mark.parametrize("name", ["StandardROIHeads", "CascadeROIHeads"])
def test_heads_train_and_detect(name):
    heads = build_roi_heads(heads_config(name), SHAPES)
    images, features, proposals, targets = batch()
    with EventStorage() as storage:
        _, losses = heads(images, features, proposals, targets)
        logged = set(storage.latest())
    stages = [f"_stage{k}" for k in range(3)] if name == "CascadeROIHeads" else [""]
    assert set(losses) == {f"loss_{kind}{stage}" for kind in ("cls", "box_reg") for stage in stages} | {"loss_mask"}
    prefix = "stage2/" if name == "CascadeROIHeads" else ""
    assert f"{prefix}fast_rcnn/cls_accuracy" in logged
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in heads.parameters())
    assert all(feature.grad is not None for feature in features.values())
    heads.eval()
    with torch.no_grad():
        found, nothing = heads(images, features, proposals)
        again = heads.forward_with_given_boxes(features, [image[:5] for image in found])
    assert nothing == {}
    assert found[0].pred_masks.shape == (len(found[0]), 1, 8, 8)
    torch.testing.assert_close(again[0].pred_masks, found[0].pred_masks[:5])


def test_training_on_predicted_boxes_moves_the_mask_regions():
    cfg = heads_config("StandardROIHeads", "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True)
    heads = build_roi_heads(cfg, SHAPES)
    torch.nn.init.constant_(heads.box_predictor.bbox_pred.bias, 1.0)
    images, features, proposals, targets = batch()
    with EventStorage():
        sampled, _ = heads(images, features, proposals, targets)
    # Offset 1 with weights 10 and 5: a tenth of the size to the right, and wider by exp(0.2).
    assert sampled[0].proposal_boxes.tensor[:, 2].max() > 64 * 0.5
    width = sampled[0].proposal_boxes.tensor[:, 2] - sampled[0].proposal_boxes.tensor[:, 0]
    assert width.min() >= 8 * math.exp(0.2) * 0.9


def test_cascade_stages_have_rising_demands():
    heads = build_roi_heads(heads_config("CascadeROIHeads"), SHAPES)
    assert heads.num_cascade_stages == len(heads.box_head) == len(heads.box_predictor) == 3
    assert [p.box2box_transform.weights[0] for p in heads.box_predictor] == [10, 20, 30]
    assert {"box_head.2.fc1.weight", "box_predictor.0.cls_score.bias", "mask_head.deconv.weight"} <= set(
        heads.state_dict()
    )
    truth = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[0.0, 0.0, 20.0, 10.0]])), gt_classes=torch.tensor([1]))
    empty = Instances((64, 64), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0).long())
    # Overlaps of 0.55, 0.65 and 0.75 with the ground truth.
    boxes = torch.tensor([[0.0, 0.0, 11.0, 10.0], [0.0, 0.0, 13.0, 10.0], [0.0, 0.0, 15.0, 10.0]])
    for stage, expected in ((1, [3, 1, 1]), (2, [3, 3, 1])):
        proposals = [Instances((64, 64), proposal_boxes=Boxes(boxes.clone())) for _ in range(2)]
        with EventStorage() as storage:
            labelled = heads._match_and_label_boxes(proposals, stage, [truth, empty])
            assert storage.latest()[f"stage{stage}/roi_head/num_fg_samples"][0] == (4 - expected.count(3) - 1) / 2
        assert labelled[0].gt_classes.tolist() == expected
        assert labelled[1].gt_classes.tolist() == [3, 3, 3]
        assert torch.equal(labelled[0].gt_boxes.tensor[2], truth.gt_boxes.tensor[0])


def test_cascade_averages_scores_of_its_stages():
    heads = build_roi_heads(heads_config("CascadeROIHeads", "MODEL.MASK_ON", False), SHAPES).eval()
    for stage, head in enumerate(heads.box_predictor):
        for parameter in head.parameters():
            torch.nn.init.zeros_(parameter)
        head.cls_score.bias.data[stage] = 3.0
    images, features, proposals, _ = batch()
    with torch.no_grad():
        found, _ = heads(images, features, [image[:1] for image in proposals])
    high, low = math.exp(3) / (math.exp(3) + 3), 1 / (math.exp(3) + 3)
    assert found[0].scores.tolist() == pytest.approx([(high + 2 * low) / 3] * 3)
    torch.testing.assert_close(found[0].pred_boxes.tensor[0], proposals[0].proposal_boxes.tensor[0])


def test_cascade_proposals_are_clipped_constants():
    heads = build_roi_heads(heads_config("CascadeROIHeads"), SHAPES)
    boxes = torch.tensor([[-5.0, 2.0, 10.0, 70.0], [70.0, 2.0, 80.0, 10.0]], requires_grad=True)
    (training,) = heads._create_proposals_from_boxes([boxes], [(64, 64)])
    assert training.proposal_boxes.tensor.tolist() == [[0, 2, 10, 64]]
    assert not training.proposal_boxes.tensor.requires_grad
    (testing,) = heads.eval()._create_proposals_from_boxes([boxes], [(64, 64)])
    assert len(testing) == 2


def test_cascade_needs_class_agnostic_boxes():
    cfg = heads_config("CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", False)
    with pytest.raises(AssertionError):
        build_roi_heads(cfg, SHAPES)


def test_res5_heads_share_their_features():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 2])
    cfg.merge_from_list(["MODEL.MASK_ON", True, "MODEL.ROI_HEADS.NUM_CLASSES", CLASSES, "MODEL.RESNETS.NORM", "BN"])
    heads = build_roi_heads(cfg, {"res4": ShapeSpec(channels=32, stride=16)})
    assert heads.box_predictor.cls_score.weight.shape == (CLASSES + 1, 64)
    images, _, proposals, targets = batch((3, 2))
    features = {"res4": torch.randn(2, 32, 4, 4)}
    with EventStorage():
        _, losses = heads(images, features, proposals, targets)
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"}
    sum(losses.values()).backward()
    assert heads.res5[0].conv1.weight.grad.abs().sum() > 0
    with torch.no_grad():
        found, _ = heads.eval()(images, features, proposals)
    assert found[0].pred_masks.shape[1:] == (1, 14, 14)

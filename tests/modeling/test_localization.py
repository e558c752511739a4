"""The class-agnostic localisation network: targets, losses, confidence, proposals, and what must not change them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torchvision.ops import box_iou

import mvseg.modeling  # noqa: F401  (registers the parts)
from mvseg.config import get_cfg
from mvseg.data.catalog import register_dataset
from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives.localization import (
    boxes_of_sides,
    centerness,
    linear_iou_loss,
    localization_confidence,
    paired_iou,
    quality_loss,
    sides_of_boxes,
)
from mvseg.modeling.proposals.localization_targets import (
    AnchorSampling,
    learning_anchors,
    localization_targets,
    match_anchors,
)
from mvseg.vocabulary import Vocabulary

ANCHORS = torch.tensor(
    [[0.0, 0, 32, 32], [8, 8, 40, 40], [16, 0, 48, 32], [40, 40, 72, 72], [-16, -16, 48, 48], [60, 60, 92, 92],
     [30, 30, 94, 94]]
)  # fmt: skip
OBJECTS = torch.tensor([[4.0, 2, 30, 40], [35, 38, 70, 75], [10, 5, 45, 30], [0, 0, 9, 9]])
MATCHED = OBJECTS[[0, 0, 2, 1, 0, 1, 1]]
WORDS = {"loc_a": ["cat", "dog", "bird"], "loc_b": ["car", "cat"]}


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = str(tmp_path_factory.mktemp("localization"))
    for name, words in WORDS.items():
        register_dataset(
            name=name, format="coco", image_root=folder, annotations=f"{folder}/none.json", vocabulary=words
        )


def test_sides_are_those_of_the_original():
    """Numbers from UniDetector's own encoder (commit eb18253, TBLRBBoxCoder with normalizer 1), whose order is tblr."""
    top_bottom_left_right = torch.tensor(
        [[0.4375, 0.75, 0.375, 0.4375], [0.6875, 0.5, 0.625, 0.1875], [0.34375, 0.4375, 0.6875, 0.40625],
         [0.5625, 0.59375, 0.65625, 0.4375], [0.21875, 0.375, 0.1875, 0.21875], [1.1875, -0.03125, 1.28125, -0.1875],
         [0.375, 0.203125, 0.421875, 0.125]]
    )  # fmt: skip
    sides = sides_of_boxes(ANCHORS, MATCHED)
    torch.testing.assert_close(sides, top_bottom_left_right[:, [2, 0, 3, 1]])
    torch.testing.assert_close(boxes_of_sides(ANCHORS, sides), MATCHED)


def test_centerness_by_hand_and_outside():
    found = centerness(sides_of_boxes(ANCHORS, MATCHED).double())
    first = math.sqrt(0.375 / 0.4375 * 0.4375 / 0.75)
    assert found[0].item() == pytest.approx(first, rel=1e-6)
    assert found[5] == 0  # its centre (76, 76) lies outside (35..70)
    assert centerness(torch.tensor([[2.0, 3, 2, 3], [0, 1, 1, 1], [0, 0, 0, 0]])).tolist() == [1, 0, 0]


def test_iou_loss_is_that_of_the_original_and_its_gradient_is_right():
    """1 - IoU from UniDetector's own IoULoss (linear=True) of shifted anchors with their objects."""
    boxes = (ANCHORS + torch.tensor([1.0, -2, 3, 4])).double().requires_grad_()
    truth = torch.tensor([0.3668, 0.5441, 0.5228, 0.2913, 0.7861, 0.9371, 0.7197])
    weights = torch.tensor([1.0, 2, 0, 1, 3, 1, 0.5], dtype=torch.float64)
    loss = linear_iou_loss(boxes, MATCHED.double(), weights)
    assert loss.item() == pytest.approx(float((truth.double() * weights).sum()), abs=5e-4)
    torch.testing.assert_close(paired_iou(boxes, MATCHED.double()), box_iou(boxes, MATCHED.double()).diagonal())
    assert torch.autograd.gradcheck(lambda b: linear_iou_loss(b, MATCHED.double(), weights), (boxes,))
    upside_down = paired_iou(torch.tensor([[5.0, 5, 1, 1], [3, 3, 3, 3]]), torch.tensor([[0.0, 0, 9, 9], [3, 3, 3, 3]]))
    assert upside_down.tolist() == [0, 0]  # two negative sides make no area, two empty boxes no division by 0


def test_quality_loss_and_confidence_in_float64():
    draw = np.random.default_rng(0)
    logits, targets, weights = draw.normal(size=9), draw.random(9), draw.random(9)
    expected = sum(w * abs(1 / (1 + math.exp(-z)) - t) for z, t, w in zip(logits, targets, weights))
    given = [torch.tensor(values, dtype=torch.float32) for values in (logits, targets, weights)]
    assert quality_loss(*given).item() == pytest.approx(expected, rel=1e-6)
    s, c, o = (torch.tensor(draw.random(5)) for _ in range(3))
    expected_scores = [a**0.3 * (b * d) ** 0.7 for a, b, d in zip(s.tolist(), c.tolist(), o.tolist())]
    np.testing.assert_allclose(localization_confidence(s, c, o, 0.3), expected_scores, rtol=1e-12)
    assert localization_confidence(s, c, o, 1.0).tolist() == s.tolist()


def test_matching_is_that_of_the_original():
    """From UniDetector's own MaxIoUAssigner with min_pos_iou 0.3: its 0, -1 and k + 1 are our -1, -2 and k."""
    assert match_anchors(ANCHORS, OBJECTS, low=0.3, high=0.7, least=0.3).tolist() == [0, -2, 2, 1, -1, -1, -2]
    assert match_anchors(ANCHORS, OBJECTS, low=0.1, high=0.3, least=0.3).tolist() == [0, 0, 2, 1, -2, -1, 1]
    rivals = torch.tensor([[2.0, 2, 30, 30], [0, 0, 26, 34]])  # the first anchor is the best of both: the last has it
    assert match_anchors(ANCHORS, rivals, low=0.3, high=0.7, least=0.3).tolist() == [1, -2, -1, -1, -1, -1, -1]
    assert match_anchors(ANCHORS, OBJECTS[:0], low=0.3, high=0.7, least=0.3).tolist() == [-1] * 7


def test_anchors_that_learn():
    size = (64, 80)
    assert learning_anchors(ANCHORS, size, 0).tolist() == [True, True, True, False, False, False, False]
    assert learning_anchors(ANCHORS, size, 16).tolist() == [True, True, True, True, True, False, False]
    inside = [True, True, True, True, True, False, True]  # without a limit: the centre lies in the image
    assert learning_anchors(ANCHORS, size, -1).tolist() == inside


def targets_of(count: int, negatives: bool, border: int = -1) -> Any:
    """Targets of the hand-made anchors with so many anchors to learn."""
    return localization_targets(
        ANCHORS,
        OBJECTS,
        (100, 100),
        regression=AnchorSampling(0.3, 0.7, 0.3, count, 0.5),
        quality=AnchorSampling(0.1, 0.3, 0.3, count, 1.0),
        border=border,
        quality_negatives=negatives,
    )


def test_targets_of_an_image():
    found = targets_of(256, negatives=False)
    assert found.box_anchors.tolist() == [0, 2, 3] and found.boxes.tolist() == OBJECTS[[0, 2, 1]].tolist()
    assert found.count == 3 + 2  # two negatives count
    assert found.center_anchors.tolist() == [0, 1, 2, 3, 6]
    expected = centerness(sides_of_boxes(ANCHORS, OBJECTS[[0, 0, 2, 1, 0, 1, 1]]))[[0, 1, 2, 3, 6]]
    torch.testing.assert_close(found.centers, expected)
    with_negatives = targets_of(256, negatives=True)
    assert with_negatives.center_anchors.tolist() == [0, 1, 2, 3, 6, 5] and with_negatives.centers[-1] == 0
    few = targets_of(4, negatives=False)
    assert len(few.box_anchors) == 2 and few.count == 4 and len(few.center_anchors) == 4


def cfg_of(**changes: Any) -> Any:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "MultiDatasetRCNN"
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.NORM = "build_timm_fpn_backbone", "resnet10t", "GN"
    cfg.MODEL.TIMM.OUT_INDICES, cfg.MODEL.FPN.OUT_CHANNELS = [1, 2, 3], 16
    cfg.MODEL.PROPOSAL_GENERATOR.NAME, cfg.MODEL.ROI_HEADS.NAME = "LocalizationRPN", "LocalizationROIHeads"
    cfg.MODEL.LOCALIZATION.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4"]
    cfg.MODEL.LOCALIZATION.BORDER = -1
    cfg.MODEL.LOCALIZATION.ANCHOR_SCALE = 4.0
    cfg.MODEL.CLASSIFIER.NAME, cfg.MODEL.CLASSIFIER.LOSS = "linear", "softmax"
    cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS, cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS = [0.5], [0.5]
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS = [[10.0, 10.0, 5.0, 5.0]]
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.9, 0.0
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = 16, True
    cfg.DATASETS.TRAIN, cfg.DATASETS.LABEL_SPACE = tuple(WORDS), "object"
    cfg.TEST.DETECTIONS_PER_IMAGE = 1500
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def record(dataset: str, seed: int, objects: int = 3, size: tuple[int, int] = (64, 80)) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(objects, 2, generator=draw) * 30
    instances = Instances(size, gt_boxes=Boxes(torch.cat([corner, corner + 12 + corner.flip(1) / 2], 1)))
    instances.gt_classes = torch.randint(len(WORDS[dataset]), (objects,), generator=draw)
    image = torch.randint(0, 256, (3, *size), generator=draw, dtype=torch.uint8)
    return {"image": image, "image_id": seed, "dataset": dataset, "supervision": "boxes", "instances": instances}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return build_model(cfg_of())


@pytest.fixture
def all_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randperm", lambda n, **kwargs: torch.arange(n, device=kwargs.get("device")))


def losses_of(model: Any, batch: list[dict[str, Any]]) -> dict[str, float]:
    model.train()
    with EventStorage(0), torch.no_grad():
        return {name: float(loss) for name, loss in model(batch).items()}


def test_losses_do_not_depend_on_classes_order_or_empty_images(model: Any, all_anchors: None):
    batch = [record("loc_a", 1), record("loc_b", 2), record("loc_a", 3)]
    before = losses_of(model, batch)
    assert set(before) == {
        "loss_localization_box", "loss_localization_center", "loss_cls", "loss_box_reg", "loss_overlap"
    }  # fmt: skip
    assert all(math.isfinite(v) and v > 0 for v in before.values())
    assert losses_of(model, batch[::-1]) == pytest.approx(before, rel=1e-5)
    for changed in batch:
        changed["instances"].gt_classes = (changed["instances"].gt_classes + 1) % len(WORDS[changed["dataset"]])
    assert losses_of(model, batch) == pytest.approx(before, rel=1e-6)
    swapped = [{**batch[0], "dataset": "loc_b"}, *batch[1:]]
    swapped[0]["instances"].gt_classes.zero_()
    assert losses_of(model, swapped) == pytest.approx(before, rel=1e-6)
    empty = losses_of(model, [record("loc_a", 4, objects=0)])
    assert empty["loss_localization_box"] == empty["loss_localization_center"] == empty["loss_box_reg"] == 0
    assert empty["loss_overlap"] == 0 and empty["loss_cls"] > 0


def test_weights_of_images_and_images_without_boxes(model: Any, all_anchors: None):
    generator, maps = model.proposal_generator, {}
    model.train()
    records = [record("loc_a", 1), record("loc_b", 2)]
    images = model.preprocess_image(records)
    with torch.no_grad():
        maps = model.backbone(images.tensor)
        truth = [r["instances"] for r in records]
        singles = []
        for i in range(2):
            one = ImageList(images.tensor[i : i + 1], images.image_sizes[i : i + 1])
            singles.append(generator(one, {k: v[i : i + 1] for k, v in maps.items()}, truth[i : i + 1])[1])
        weighted = BatchContext(("boxes", "boxes"), weights=torch.tensor([0.5, 2.0]))
        tagged = BatchContext(("boxes", "tags"))
        for context, factors in ((None, (1, 1)), (weighted, (0.5, 2)), (tagged, (1, 0))):
            _, losses = generator(images, maps, truth, context)
            for name, loss in losses.items():
                expected = sum(f * float(single[name]) for f, single in zip(factors, singles)) / 2
                assert float(loss) == pytest.approx(expected, rel=1e-5), (name, factors)


def test_every_parameter_learns_and_also_without_any_object(model: Any):
    model.train()
    for batch in ([record("loc_a", 1), record("loc_b", 2)], [record("loc_a", 1, objects=0)]):
        model.zero_grad(set_to_none=True)
        with EventStorage(0):
            sum(model(batch).values()).backward()
        missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_proposals_by_brute_force_and_padding(model: Any):
    generator = model.proposal_generator.eval()
    draw = torch.Generator().manual_seed(0)
    sizes = [(16, 20), (8, 10), (4, 5)]
    levels = [level.tensor for level in generator.anchor_generator([torch.zeros(1, 1, *s) for s in sizes])]
    anchors = torch.cat(levels)
    sides = torch.rand(1, len(anchors), 4, generator=draw) + 0.1
    logits = torch.randn(1, len(anchors), generator=draw)
    found = generator.propose(sides, logits, levels, [(60, 70)])[0]
    expected = []
    for (x0, y0, x1, y1), (left, top, right, bottom), score in zip(
        anchors.tolist(), sides[0].tolist(), logits[0].tolist()
    ):
        x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
        if 0 <= x < 70 and 0 <= y < 60:
            box = [x - left * w, y - top * h, x + right * w, y + bottom * h]
            expected.append((score, [min(max(v, 0), (70, 60)[i % 2]) for i, v in enumerate(box)]))
    expected.sort(key=lambda pair: -pair[0])
    np.testing.assert_allclose(found.objectness_logits, [score for score, _ in expected], rtol=1e-6)
    np.testing.assert_allclose(found.proposal_boxes.tensor, [box for _, box in expected], rtol=1e-5, atol=1e-4)


def test_suppression_within_levels_and_limits(model: Any):
    generator = model.proposal_generator.train()
    levels = [level.tensor for level in generator.anchor_generator([torch.zeros(1, 1, *s) for s in ((8, 8), (4, 4))])][
        :2
    ]
    count = sum(map(len, levels))
    draw = torch.Generator().manual_seed(1)
    sides, logits = torch.rand(1, count, 4, generator=draw) + 0.5, torch.randn(1, count, generator=draw)
    before = generator.pre_nms_topk, generator.post_nms_topk
    generator.pre_nms_topk, generator.post_nms_topk = (20, 20), (12, 12)
    try:
        found = generator.propose(sides, logits, levels, [(32, 32)])[0]
    finally:
        generator.pre_nms_topk, generator.post_nms_topk = before
    rows = torch.cat([logits[0, :64].topk(20).indices, 64 + logits[0, 64:].topk(16).indices])
    boxes = boxes_of_sides(torch.cat(levels)[rows], sides[0, rows]).clamp(0, 32)
    keep = batched_nms(boxes, logits[0, rows], (rows >= 64).long(), 0.7)[:12]
    torch.testing.assert_close(found.proposal_boxes.tensor, boxes[keep])
    assert len(found) == 12


def test_detections_have_the_confidence_and_no_class(model: Any):
    model.eval()
    image = record("loc_a", 5)
    inputs = [{"image": image["image"], "height": 64, "width": 80}]
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        maps = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, maps)
        heads = model.roi_heads
        hidden = heads._region_features(maps, [p.proposal_boxes for p in proposals], 0)
        predictor = heads.box_predictor[0]
        s = predictor.cls_score(hidden).softmax(1)[:, 0]
        eta = s**0.3 * (proposals[0].objectness_logits.sigmoid() * heads.overlap(hidden)[:, 0].sigmoid()) ** 0.7
        boxes = predictor.refine(predictor.bbox_pred(hidden), [p.proposal_boxes for p in proposals])[0]
        boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clamp(0, 80), boxes[:, 1::2].clamp(0, 64)
        keep = batched_nms(boxes, eta, torch.zeros(len(eta)), 0.9)
        for words in (None, Vocabulary.from_names(["zebra", "yak", "gnu"], "any")):
            with model.use_vocabulary(words):
                found = model(inputs)[0]["instances"]
            full = Boxes(boxes[keep]).nonempty()
            torch.testing.assert_close(found.scores, eta[keep][full])
            torch.testing.assert_close(found.pred_boxes.tensor, boxes[keep][full])
            assert found.pred_classes.unique().tolist() == [0]


def test_what_cannot_be_a_localisation_network():
    with pytest.raises(ValueError, match=r"5 columns: set DATASETS.LABEL_SPACE object"):
        build_model(cfg_of(DATASETS__LABEL_SPACE="concatenate"))
    with pytest.raises(ValueError, match="one stage"):
        build_model(
            cfg_of(
                MODEL__ROI_BOX_CASCADE_HEAD__IOUS=[0.5, 0.6],
                MODEL__ROI_BOX_CASCADE_HEAD__BBOX_REG_WEIGHTS=[[1.0] * 4] * 2,
            )
        )
    with pytest.raises(ValueError, match=r"\['p9'\] not among"):
        build_model(cfg_of(MODEL__LOCALIZATION__IN_FEATURES=["p9"]))


def test_proposals_of_the_record(model: Any):
    """PROPOSAL_GENERATOR.NAME PrecomputedProposals: the record's proposals reach the heads, in training and at test."""
    torch.manual_seed(0)
    other = build_model(cfg_of(MODEL__PROPOSAL_GENERATOR__NAME="PrecomputedProposals"))
    other.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("proposal_generator")})
    model.eval(), other.eval()
    image = record("loc_a", 5)
    inputs = {"image": image["image"], "height": 64, "width": 80, "dataset": "loc_a", "image_id": 7}
    with torch.no_grad():
        images = model.preprocess_image([inputs])
        proposals, _ = model.proposal_generator(images, model.backbone(images.tensor))
        found = other([{**inputs, "proposals": proposals[0]}])[0]["instances"]
        expected = model([inputs])[0]["instances"]
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    other.train()
    with EventStorage(0):
        losses = other([{**image, "proposals": proposals[0]}])
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_overlap"} and losses["loss_box_reg"] > 0
    for mode in (True, False):
        with pytest.raises(ValueError, match="dataset 'loc_a', image 7 has no proposals"):
            other.train(mode)([{**image, **inputs}])


def test_soft_suppression_and_calibration_of_a_localisation_network(model: Any):
    """Gaussian suppression lowers scores here as well; words that could be calibrated there are none."""
    model.eval()
    inputs = [{"image": record("loc_a", 5)["image"], "height": 64, "width": 80}]
    heads, found = model.roi_heads, {}
    with torch.no_grad():
        for sigma in (None, 0.5, 1e9):  # of the last nothing falls, and nothing goes
            heads.soft_sigma = sigma
            found[sigma] = model(inputs)[0]["instances"].scores
    heads.soft_sigma = None
    assert len(found[1e9]) > len(found[None])
    assert found[0.5].sum() < found[1e9].sum() and found[0.5][0] == found[1e9][0]
    assert build_model(cfg_of(MODEL__ROI_HEADS__NMS="gaussian")).roi_heads.soft_sigma == 0.5
    with pytest.raises(ValueError, match=r"set MODEL.CALIBRATION.ENABLED False"):
        build_model(cfg_of(MODEL__CALIBRATION__ENABLED=True))

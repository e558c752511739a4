"""Every stand-alone part against the numbers of the original CenterNet2 and Detic (shared/oracles/units_detic)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances, PolygonMasks
from oracle_numbers import Oracle, close
from torch import Tensor

from mvseg.modeling.classifier import TextClassifier
from mvseg.modeling.objectives import FederatedObjective, RegionTargets, SigmoidObjective, SoftmaxObjective
from mvseg.modeling.objectives.centernet import heatmap_focal_loss, location_loss
from mvseg.modeling.objectives.federated import federated_draw_weights
from mvseg.modeling.objectives.region import box_loss
from mvseg.modeling.proposals.centernet import CenterNet
from mvseg.modeling.proposals.centernet_targets import CenterNetTargets, Grid, centernet_targets, make_grid
from mvseg.modeling.roi_heads.mask import mask_targets
from mvseg.modeling.roi_heads.selection import fuse_scores, select_detections

STRIDES = [8, 16, 32, 64, 128]
SIZES = [[0, 80], [64, 160], [128, 320], [256, 640], [512, 10000000]]


def grid_of(oracle: Oracle, case: str) -> Grid:
    return make_grid([tuple(s) for s in oracle(f"{case}/level_shapes").tolist()], STRIDES)


def targets_of(oracle: Oracle, case: str, num_classes: int | None = None) -> CenterNetTargets:
    boxes, classes = [oracle(f"{case}/gt_boxes_0")], [oracle(f"{case}/gt_classes_0")]
    if f"{case}/gt_boxes_1" in oracle.io:
        boxes, classes = oracle.images(f"{case}/gt_boxes"), oracle.images(f"{case}/gt_classes")
    else:  # the second image is empty
        boxes, classes = [*boxes, boxes[0][:0]], [*classes, classes[0][:0]]
    return centernet_targets(boxes, classes, grid_of(oracle, case), size_ranges=SIZES, num_classes=num_classes)


def centernet(**changes: object) -> CenterNet:
    arguments = {
        "head": torch.nn.Identity(),
        "in_features": ["p3", "p4", "p5", "p6", "p7"],
        "strides": STRIDES,
        "size_ranges": SIZES,
        "focal": {"ignore_above": 0.85},
    }
    return CenterNet(**{**arguments, **changes})


def test_grid(units: Oracle):
    grid = grid_of(units, "centernet")
    for level, name in ((0, "p3"), (4, "p7")):
        points = grid.points[grid.levels == level]
        assert torch.equal(points[[0, -1]], units(f"centernet/grid_corner_{name}"))


def test_targets(units: Oracle):
    targets = targets_of(units, "centernet")
    order, expected_order = targets.centers.argsort(stable=True), units("centernet/centers").argsort(stable=True)
    assert torch.equal(targets.centers[order], units("centernet/centers")[expected_order])
    found = sorted(zip(targets.centers.tolist(), targets.center_classes.tolist()))
    assert found == sorted(zip(units("centernet/centers").tolist(), units("centernet/center_classes").tolist()))
    assert torch.equal(targets.locations, units("centernet/reg_locations"))
    close(targets.distances, units("centernet/reg_targets"))
    close(targets.heatmap[:, 0], units("centernet/heatmap"))


def test_class_heatmaps(units: Oracle):
    targets = targets_of(units, "centernet_small", num_classes=5)
    assert sorted(targets.centers.tolist()) == sorted(units("centernet_small/centers").tolist())
    assert torch.equal(targets.locations, units("centernet_small/reg_locations"))
    close(targets.distances, units("centernet_small/reg_targets"))
    close(targets.heatmap, units("centernet_small/class_heatmap"))


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("agnostic", {}),
        ("agnostic_iou", {"location_kind": "iou"}),
        ("agnostic_linear_iou", {"location_kind": "linear_iou"}),
        ("agnostic_weighted_reg", {"heatmap_weighted_locations": True}),
        ("agnostic_no_ignore", {"focal": {"ignore_above": -1}}),
    ],
)
def test_losses(units: Oracle, case: str, changes: dict):
    logits = units("centernet/pred_logits")[:, None].requires_grad_()
    distances = units("centernet/pred_reg").requires_grad_()
    losses = centernet(**changes).losses(logits, distances, targets_of(units, "centernet"))
    for name, loss in losses.items():
        close(loss, units(f"centernet/{case}/{name}"))
    if case == "agnostic":
        sum(losses.values()).backward()
        close(logits.grad[::7, 0], units("centernet/agnostic/grad_logits_every_7"))
        close(logits.grad[units("centernet/centers"), 0], units("centernet/agnostic/grad_logits_at_centers"))
        close(distances.grad[units("centernet/reg_locations")], units("centernet/agnostic/grad_reg_at_locations"))


@pytest.mark.parametrize("with_agnostic", [False, True])
def test_class_losses(units: Oracle, with_agnostic: bool):
    targets = targets_of(units, "centernet_small", num_classes=5)
    rows = len(targets.heatmap)
    logits = units("centernet_small/pred_class_logits").requires_grad_()
    distances = units("centernet/pred_reg")[:rows].clone().requires_grad_()
    ignore_above = 0.85 if with_agnostic else -1
    positive, negative = heatmap_focal_loss(
        logits,
        targets.heatmap,
        targets.centers,
        targets.center_classes,
        normalizer=len(targets.centers),
        ignore_above=ignore_above,
    )
    location = 2 * location_loss(
        distances[targets.locations], targets.distances, normalizer=len(targets.locations), kind="giou"
    )
    case = "centernet/small_classwise_and_agnostic" if with_agnostic else "centernet/small_classwise"
    close(positive, units(f"{case}/loss_centernet_pos"))
    close(negative, units(f"{case}/loss_centernet_neg"))
    close(location, units(f"{case}/loss_centernet_loc"))
    if not with_agnostic:
        (positive + negative + location).backward()
        close(logits.grad[::7], units(f"{case}/grad_cls_every_7"))
        close(distances.grad[targets.locations], units(f"{case}/grad_reg_at_locations"))


def canonical(scores: Tensor, boxes: Tensor) -> Tensor:
    """Order that does not depend on how equal scores were sorted."""
    keys = [*boxes.round(decimals=2).t().numpy(), -scores.mul(1e4).round().numpy()]
    return torch.from_numpy(np.lexsort(keys))


@pytest.mark.parametrize("phase", ["test", "train"])
def test_proposals(units: Oracle, phase: str):
    shapes = [tuple(s) for s in units("centernet_small/level_shapes").tolist()]

    def maps(key: str, channels: int) -> list[Tensor]:
        pieces = units(key).split([2 * channels * h * w for h, w in shapes])
        return [piece.reshape(2, channels, h, w) for piece, (h, w) in zip(pieces, shapes)]

    generator = centernet().train(phase == "train")
    sizes = [tuple(s) for s in units.config["proposals"]["image_sizes"]]
    found = generator.propose(
        maps("proposals/heatmap_logits_flat", 1), maps("proposals/reg_flat", 4), make_grid(shapes, STRIDES), sizes
    )
    for i, proposals in enumerate(found):
        scores, expected_scores = proposals.objectness_logits.sigmoid(), units(f"proposals/{phase}_scores_{i}")
        close(scores, expected_scores)
        boxes, expected = proposals.proposal_boxes.tensor, units(f"proposals/{phase}_boxes_{i}")
        order, expected_order = canonical(scores, boxes), canonical(expected_scores, expected)
        torch.testing.assert_close(boxes[order], expected[expected_order], rtol=0, atol=1e-3)
        assert proposals.image_size == sizes[i]


def region_targets(units: Oracle) -> RegionTargets:
    classes = units("region/gt_classes")
    return RegionTargets(classes=classes, images=torch.zeros_like(classes))


@pytest.mark.parametrize(
    "case", ["sigmoid", "sigmoid_federated", "sigmoid_ignore_zero", "softmax", "softmax_ignore_zero"]
)
def test_region_classification(units: Oracle, case: str):
    targets, counts = region_targets(units), units("region/images_per_class").float()
    columns: Tensor | None = None
    objective = SigmoidObjective(30)
    if case == "sigmoid_federated":
        columns = units("region/federated_classes")
        columns = columns[columns < 30]
    elif case == "sigmoid_ignore_zero":
        objective = SigmoidObjective(30, counts, ignore_zero=True)
        columns = objective.columns(targets)
    elif case.startswith("softmax"):
        weights = torch.cat([counts > 0, torch.ones(1, dtype=torch.bool)]).float()
        objective = SoftmaxObjective(30, weights if case == "softmax_ignore_zero" else None)
    logits = units("image_labels/class_logits").clone().requires_grad_()
    used = logits if objective.needs_background else logits[:, :-1] if columns is None else logits[:, columns]
    loss = objective.losses(used, targets, columns)["loss_cls"]
    close(loss, units(f"region/{case}/loss_cls"))
    loss.backward()
    close(logits.grad, units(f"region/{case}/grad_class_logits"))


@pytest.mark.parametrize(("case", "kind"), [("sigmoid", "smooth_l1"), ("sigmoid_giou", "giou")])
def test_region_boxes(units: Oracle, case: str, kind: str):
    deltas = units("region/deltas").clone().requires_grad_()
    transform = Box2BoxTransform(weights=tuple(units.config["region"]["box_weights"][0]))
    foreground = units("region/gt_classes") < 30
    loss = box_loss(deltas, units("image_labels/boxes"), units("region/gt_boxes"), foreground, transform, kind=kind)
    close(loss, units(f"region/{case}/loss_box_reg"))
    loss.backward()
    close(deltas.grad, units(f"region/{case}/grad_deltas"))


def test_federated_draw(units: Oracle):
    counts, classes = units("region/images_per_class").float(), units("region/gt_classes")
    close(federated_draw_weights(classes, counts, 0.5), units("region/federated_draw_weights")[:-1])
    columns = FederatedObjective(30, counts, num_columns=25).columns(region_targets(units))
    drawn = int(units("region/federated_draw_count_of_25"))
    assert len(columns) == drawn + len(classes[classes < 30].unique())
    assert set(classes[classes < 30].tolist()) <= set(columns.tolist())


@pytest.mark.parametrize("case", ["plain", "times_proposal_score"])
def test_selection(units: Oracle, case: str):
    scores = units("select/class_probabilities")[:, :-1]
    if case == "times_proposal_score":
        scores = fuse_scores(scores, units("select/proposal_scores"))
    found, rows = select_detections(
        units("select/boxes"), scores, (256, 320), score_threshold=0.1, nms_threshold=0.5, topk=60
    )
    assert torch.equal(rows, units(f"select/{case}/source_row"))
    assert torch.equal(found.pred_classes, units(f"select/{case}/classes"))
    close(found.scores, units(f"select/{case}/scores"))
    close(found.pred_boxes.tensor, units(f"select/{case}/boxes"))


@pytest.mark.parametrize("case", ["plain", "with_bias", "no_norm", "external_rows"])
def test_text_classifier(units: Oracle, case: str):
    rows = units("classifier/text_rows")
    classifier = TextClassifier(
        32,
        rows,
        normalize=case != "no_norm",
        bias=-4.6 if case == "with_bias" else None,
        background=case != "external_rows",
    )
    classifier.linear.load_state_dict(
        {"weight": units("classifier/linear_weight"), "bias": units("classifier/linear_bias")}
    )
    embeddings = 2 * rows[3:7] if case == "external_rows" else None
    close(classifier(units("classifier/features"), embeddings=embeddings), units(f"classifier/logits_{case}"))


def test_pooling(units: Oracle):
    pooler = ROIPooler(7, [1 / s for s in STRIDES[:3]], 0, "ROIAlignV2")
    boxes = [Boxes(b) for b in units("image_labels/boxes").split(units("image_labels/count_per_image").tolist())]
    pooled = pooler([units(f"pool/map_p{level}") for level in (3, 4, 5)], boxes)
    close(pooled, units("pool/roi_7x7"))


def test_mask_targets(units: Oracle):
    proposals = Instances((256, 320))
    proposals.proposal_boxes = Boxes(units("image_labels/boxes"))
    proposals.gt_masks = PolygonMasks([[p.astype(np.float64)] for p in units.io["mask_targets/polygons"]])
    expected = np.unpackbits(units.io["mask_targets/targets_28x28_packed"], axis=-1, count=28)
    assert torch.equal(mask_targets([proposals], 28), torch.from_numpy(expected).bool())


def test_centernet_checks_levels():
    with pytest.raises(ValueError, match="equally many"):
        centernet(strides=STRIDES[:3])


def test_feature_shapes_are_checked():
    from mvseg.config import get_cfg

    cfg = get_cfg()
    shapes = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in range(3, 8)}
    cfg.MODEL.CENTERNET.FPN_STRIDES = [4, 8, 16, 32, 64]
    with pytest.raises(ValueError, match="FPN_STRIDES"):
        CenterNet.from_config(cfg, shapes)
    cfg.MODEL.CENTERNET.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    with pytest.raises(ValueError, match="p2"):
        CenterNet.from_config(cfg, shapes)

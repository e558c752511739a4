"""Whole detectors built from a config: losses, outputs in the asked size, and independence from the batch."""

from __future__ import annotations

import importlib

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_model, build_sem_seg_head
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from mvseg.provider import detectron2_provider


def config(*options):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
            *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 8),
            *("MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"], "MODEL.FPN.IN_FEATURES", ["res4", "res5"]),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32]], "MODEL.RPN.IN_FEATURES", ["p4", "p5"]),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 40, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
            *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["p4", "p5"]),
            *("MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
            *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 1),
            *("MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 4),
            *("TEST.DETECTIONS_PER_IMAGE", 10, "MODEL.PIXEL_STD", [50.0, 60.0, 70.0]),
            *options,
        ]
    )
    return cfg


def records(sizes=((64, 64), (48, 64))):
    result = []
    for height, width in sizes:
        truth = Instances(
            (height, width),
            gt_boxes=Boxes(torch.tensor([[4.0, 6.0, 30.0, 28.0], [20.0, 10.0, 44.0, 40.0]])),
            gt_classes=torch.tensor([0, 2]),
        )
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        result.append({"image": image, "instances": truth, "height": 2 * height, "width": 3 * width})
    return result


def test_generalized_rcnn_trains():
    model = build_model(config())
    with EventStorage() as storage:
        losses = model(records())
        logged = set(storage.latest())
    assert list(losses) == ["loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"]
    assert {"rpn/num_pos_anchors", "roi_head/num_fg_samples", "fast_rcnn/cls_accuracy"} <= logged
    sum(losses.values()).backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    names = set(model.state_dict())
    assert {"proposal_generator.rpn_head.conv.weight", "roi_heads.box_predictor.bbox_pred.bias"} <= names
    assert not any("pixel" in name or "anchor_generator" in name for name in names)


def test_a_step_against_the_gradient_lowers_the_loss():
    model = build_model(config())
    batch = records()

    def loss():
        torch.manual_seed(0)
        with EventStorage():
            return sum(model(batch).values())

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    before = loss()
    for _ in range(3):
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss().item() < before.item()


def test_detections_come_in_the_size_asked_for():
    model = build_model(config()).eval()
    batch = records()
    with torch.no_grad():
        results = model(batch)
        plain = model.inference(batch, do_postprocess=False)
    for record, result, raw in zip(batch, results, plain):
        found = result["instances"]
        assert found.image_size == (record["height"], record["width"])
        assert raw.image_size == tuple(record["image"].shape[1:])
        assert len(raw) == 10
        assert set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
        scale = torch.tensor([3.0, 2.0, 3.0, 2.0])
        torch.testing.assert_close(found.pred_boxes.tensor, raw.pred_boxes.tensor * scale)
    with pytest.raises(AssertionError):
        build_model(config()).inference(batch)


def test_an_image_is_detected_alike_alone_and_in_a_batch():
    model = build_model(config()).eval()
    batch = records(((64, 64), (64, 64)))
    with torch.no_grad():
        together = model.inference(batch, do_postprocess=False)
        alone = model.inference(batch[1:], do_postprocess=False)[0]
    torch.testing.assert_close(together[1].pred_boxes.tensor, alone.pred_boxes.tensor, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(together[1].scores, alone.scores, rtol=1e-3, atol=1e-4)


def test_images_are_normalised_and_padded():
    model = build_model(config())
    batch = records(((40, 50), (64, 33)))
    images = model.preprocess_image(batch)
    assert images.tensor.shape[-2:] == (64, 64)
    assert images.image_sizes == [(40, 50), (64, 33)]
    mean = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
    std = torch.tensor([50.0, 60.0, 70.0]).view(3, 1, 1)
    torch.testing.assert_close(images[0], (batch[0]["image"].float() - mean) / std)
    assert not images.tensor[0, :, 40:].any()
    assert model.device == torch.device("cpu")


def test_masks_for_given_boxes():
    options = ("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 4)
    model = build_model(config(*options)).eval()
    batch = records()
    given = [
        Instances((64, 64), pred_boxes=Boxes(torch.tensor([[8.0, 8.0, 40.0, 30.0]])), pred_classes=torch.tensor([1])),
        Instances((48, 64), pred_boxes=Boxes(torch.zeros(0, 4)), pred_classes=torch.zeros(0).long()),
    ]
    with torch.no_grad():
        results = model.inference(batch, given)
    found = results[0]["instances"]
    assert found.pred_boxes.tensor.tolist() == [[24, 16, 120, 60]]
    assert found.pred_masks.shape == (1, 128, 192)
    assert len(results[1]["instances"]) == 0


def test_pictures_of_the_training():
    pytest.importorskip("detectron2.utils.visualizer")
    model = build_model(config("VIS_PERIOD", 1))
    with EventStorage() as storage:
        model(records())
        (_, picture, iteration), *_ = storage._vis_data
    assert picture.shape == (3, 64, 128)
    assert iteration == 0


def test_proposals_of_the_records_replace_a_generator():
    model = build_model(config("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"))
    batch = records()
    for record in batch:
        record["proposals"] = Instances(
            record["instances"].image_size,
            proposal_boxes=record["instances"].gt_boxes.clone(),
            objectness_logits=torch.zeros(2),
        )
    with EventStorage():
        assert set(model(batch)) == {"loss_cls", "loss_box_reg"}
    with torch.no_grad():
        assert len(model.eval()(batch)) == 2


def test_models_and_heads_of_users_are_found_by_name():
    @META_ARCH_REGISTRY.register()
    class UserModel(nn.Module):
        def __init__(self, cfg):
            super().__init__()
            self.layer = nn.Linear(1, 1)

    @SEM_SEG_HEADS_REGISTRY.register()
    def contract_head(cfg, input_shape):
        return input_shape["p2"]

    assert isinstance(build_model(config("MODEL.META_ARCHITECTURE", "UserModel")), UserModel)
    assert build_sem_seg_head(config("MODEL.SEM_SEG_HEAD.NAME", "contract_head"), {"p2": "shape"}) == "shape"


@pytest.mark.skipif(detectron2_provider() != "builtin", reason="an installed Detectron2 has all of them")
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("modeling", "RetinaNet"),
        ("modeling.meta_arch", "PanopticFPN"),
        ("modeling.backbone", "ViT"),
        ("modeling.roi_heads", "ROI_KEYPOINT_HEAD_REGISTRY"),
        ("layers", "ASPP"),
    ],
)
def test_what_is_left_out_says_how_to_get_it(module, name):
    with pytest.raises(ImportError, match=f"{name} is not in mvseg's built-in provider"):
        getattr(importlib.import_module(f"detectron2.{module}"), name)
    with pytest.raises(AttributeError):
        _ = importlib.import_module(f"detectron2.{module}").nonsense

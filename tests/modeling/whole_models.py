"""Configs of small and full detectors for the tests, and the recording of what happens inside one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from oracle_numbers import Oracle
from torch import Tensor

import mvseg.modeling  # noqa: F401  (registers the parts)
from mvseg.config import get_cfg

WORDS = {"det_a": ["cat", "dog", "bird"], "det_b": ["car", "bus", "cat", "tram"]}
WIDTH = 8


def centernet2_cfg() -> Any:
    """CenterNet2 with a ResNet-50, as in the original base file."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "MultiDatasetRCNN"
    cfg.MODEL.BACKBONE.NAME = "build_p67_resnet_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "CenterNet"
    cfg.MODEL.ROI_HEADS.NAME = "MultiDatasetCascadeROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS = [0.6]
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.001
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.7
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS = [0.6, 0.7, 0.8]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 2
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    cfg.MODEL.CLASSIFIER.NAME = "linear"
    cfg.MODEL.CLASSIFIER.LOSS = "softmax"
    return cfg


def detic_cfg(dataset: str) -> Any:
    """Detic with a timm ResNet-50 on LVIS, trained with boxes and masks."""
    cfg = centernet2_cfg()
    cfg.DATASETS.TRAIN = (dataset,)
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.5
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    cfg.MODEL.CLASSIFIER.NAME = "text"
    cfg.MODEL.CLASSIFIER.LOSS = "federated"
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    return cfg


def small_cfg(*datasets: str) -> Any:
    """A detector that runs in a fraction of a second: ResNet-18 from timm and narrow heads."""
    cfg = centernet2_cfg()
    cfg.DATASETS.TRAIN = datasets
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME = "resnet18"
    cfg.MODEL.TIMM.NORM = "GN"
    cfg.MODEL.PIXEL_STD = [58.0, 58.0, 58.0]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.CENTERNET.NUM_BOX_CONVS = 1
    cfg.MODEL.CENTERNET.POST_NMS_TOPK_TEST = 32
    cfg.MODEL.CENTERNET.POST_NMS_TOPK_TRAIN = 64
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    return cfg


def rows_of(words: list[str]) -> Tensor:
    """A fixed random text embedding for every word."""
    seeds = [sum(map(ord, word)) for word in words]
    return torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(s)) for s in seeds])


def record(dataset: str, seed: int, objects: int = 3, masks: bool = False, size: tuple[int, int] = (64, 64)) -> dict:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(objects, 2, generator=draw) * 30
    boxes = torch.cat([corner, corner + 8 + torch.rand(objects, 2, generator=draw) * 20], 1)
    instances = Instances(size, gt_boxes=Boxes(boxes))
    instances.gt_classes = torch.randint(len(WORDS[dataset]), (objects,), generator=draw)
    if masks:
        instances.gt_masks = BitMasks(torch.rand(objects, *size, generator=draw) > 0.3)
    image = torch.randint(0, 256, (3, *size), generator=draw, dtype=torch.uint8)
    kind = "masks" if masks else "boxes"
    return {"image": image, "image_id": seed, "dataset": dataset, "supervision": kind, "instances": instances}


def text_cfg(*names: str, **changes: Any) -> Any:
    cfg = small_cfg(*(names or WORDS))
    cfg.MODEL.CLASSIFIER.NAME, cfg.MODEL.CLASSIFIER.LOSS = "text", "sigmoid"
    cfg.MODEL.CLASSIFIER.BIAS = -4.6
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def build(cfg: Any, state: dict[str, Tensor] | None = None) -> Any:
    """Build a model; if weights are given every parameter must be among them, otherwise it proposes small boxes."""
    model = build_model(cfg)
    if state is None and cfg.MODEL.PROPOSAL_GENERATOR.NAME == "CenterNet":
        torch.nn.init.constant_(model.proposal_generator.centernet_head.bbox_pred.bias, 1.0)
    if state is not None:
        missing = model.load_state_dict(state, strict=False).missing_keys
        assert [k for k in missing if "num_batches_tracked" not in k] == []
    return model


def oracle_inputs(oracle: Oracle, with_masks: bool, **more: Any) -> list[dict[str, Any]]:
    """The two images of an oracle with their annotation, as a mapper would give them."""
    order = [2, 1, 0] if oracle.config["images"]["network_channel_order"] == "BGR" else [0, 1, 2]
    batch = []
    for i in range(2):
        image = oracle(f"images_{i}").permute(2, 0, 1)[order].contiguous()
        size = (image.shape[1], image.shape[2])
        instances = Instances(size, gt_boxes=Boxes(oracle(f"gt/boxes_{i}")), gt_classes=oracle(f"gt/classes_{i}"))
        if with_masks:
            polygons = oracle.io[f"gt/polygons_{i}"].astype(np.float64)
            instances.gt_masks = PolygonMasks([[p] for p in polygons])
        batch.append({"image": image, "image_id": i, "instances": instances, **more})
    return batch


@contextmanager
def recording(modules: dict[str, torch.nn.Module]) -> Iterator[dict[str, Any]]:
    """Keep what the named modules return."""
    outputs: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda module, args, output: outputs.__setitem__(name, output)

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        with EventStorage():
            yield outputs
    finally:
        for handle in handles:
            handle.remove()

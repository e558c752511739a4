"""Detectors of two stages: backbone, proposals, heads on regions."""

import numpy as np
import torch
from torch import Tensor, nn

from ...config import configurable
from ...layers import move_device_like
from ...structures import ImageList, Instances
from ...utils.events import get_event_storage
from ..backbone import build_backbone
from ..postprocessing import detector_postprocess
from ..proposal_generator import build_proposal_generator
from ..roi_heads import build_roi_heads
from .build import META_ARCH_REGISTRY


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(nn.Module):
    """Detect by features of the image, proposals of regions, and a prediction for each region."""

    @configurable
    def __init__(
        self, *, backbone, proposal_generator, roi_heads, pixel_mean, pixel_std, input_format=None, vis_period=0
    ):
        super().__init__()
        self.backbone, self.proposal_generator, self.roi_heads = backbone, proposal_generator, roi_heads
        self.input_format, self.vis_period = input_format, vis_period
        if len(pixel_mean) != len(pixel_std):
            raise AssertionError(f"MODEL.PIXEL_MEAN {pixel_mean} and PIXEL_STD {pixel_std} differ in length")
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shape),
            "roi_heads": build_roi_heads(cfg, shape),
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _move_to_current_device(self, x: Tensor) -> Tensor:
        return move_device_like(x, self.pixel_mean)

    def preprocess_image(self, batched_inputs: list[dict[str, Tensor]]) -> ImageList:
        """Normalise the "image" (C, H, W) of each record and pad them to one batch."""
        images = [self._move_to_current_device(record["image"]) for record in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        constraints = self.backbone.padding_constraints
        return ImageList.from_tensors(images, self.backbone.size_divisibility, padding_constraints=constraints)

    def visualize_training(self, batched_inputs: list[dict[str, Tensor]], proposals: list[Instances]) -> None:
        """Put the first image, with ground truth at the left and its best proposals at the right, into the storage."""
        from ...data.detection_utils import convert_image_to_rgb
        from ...utils.visualizer import Visualizer

        record = batched_inputs[0]
        image = convert_image_to_rgb(record["image"].permute(1, 2, 0), self.input_format)
        best = proposals[0].proposal_boxes[:20].tensor.detach().cpu().numpy()
        drawn = [
            Visualizer(image, None).overlay_instances(boxes=boxes).get_image()
            for boxes in (record["instances"].gt_boxes, best)
        ]
        picture = np.concatenate(drawn, axis=1).transpose(2, 0, 1)
        get_event_storage().put_image("Left: GT bounding boxes;  Right: Predicted proposals", picture)

    def forward(self, batched_inputs: list[dict[str, Tensor]]):
        """Losses in training, detections otherwise.

        Args:
            batched_inputs: a record for each image: "image" (C, H, W); in training "instances" with the ground truth;
                "height" and "width" of the output wanted; "proposals" if there is no proposal generator.

        Returns:
            A dict of losses in training; otherwise for each image {"instances": Instances} with `pred_boxes`,
            `scores`, `pred_classes` and perhaps `pred_masks`.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        truth = self._on_device(batched_inputs, "instances") if "instances" in batched_inputs[0] else None
        features = self.backbone(images.tensor)
        proposals, losses = self._propose(images, features, batched_inputs, truth)
        _, head_losses = self.roi_heads(images, features, proposals, truth)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return {**head_losses, **losses}

    def _on_device(self, batched_inputs, key: str) -> list[Instances]:
        return [record[key].to(self.device) for record in batched_inputs]

    def _propose(self, images, features, batched_inputs, truth=None) -> tuple[list[Instances], dict[str, Tensor]]:
        if self.proposal_generator is not None:
            return self.proposal_generator(images, features, truth)
        return self._on_device(batched_inputs, "proposals"), {}

    def inference(self, batched_inputs, detected_instances: list[Instances] | None = None, do_postprocess: bool = True):
        """Detect.

        Args:
            batched_inputs: records as in `forward`.
            detected_instances: Instances of each image with `pred_boxes` and `pred_classes`; then only masks are added.
            do_postprocess: scale to the output size.

        Returns:
            As `forward`, or plain Instances in input coordinates without postprocessing.
        """
        if self.training:
            raise AssertionError("GeneralizedRCNN.inference is for eval mode")
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            proposals, _ = self._propose(images, features, batched_inputs)
            results, _ = self.roi_heads(images, features, proposals, None)
        else:
            given = [image.to(self.device) for image in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, given)
        if not do_postprocess:
            return results
        return GeneralizedRCNN._postprocess(results, batched_inputs, images.image_sizes)

    @staticmethod
    def _postprocess(instances: list[Instances], batched_inputs: list[dict[str, Tensor]], image_sizes):
        """Scale the detections of each image to the "height" and "width" of its record."""
        return [
            {"instances": detector_postprocess(image, record.get("height", size[0]), record.get("width", size[1]))}
            for image, record, size in zip(instances, batched_inputs, image_sizes)
        ]

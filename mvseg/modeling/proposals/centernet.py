"""CenterNet as a class-agnostic proposal generator (``MODEL.PROPOSAL_GENERATOR.NAME: CenterNet``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from mvseg.modeling.context import BatchContext
from mvseg.modeling.objectives.centernet import LocationLoss, heatmap_focal_loss, location_loss
from mvseg.modeling.objectives.processes import mean_over_processes
from mvseg.modeling.proposals.centernet_head import CenterNetHead
from mvseg.modeling.proposals.centernet_targets import CenterNetTargets, Grid, centernet_targets, make_grid
from mvseg.modeling.proposals.suppression import best_after_suppression

LOSSES = ("loss_centernet_loc", "loss_centernet_agn_pos", "loss_centernet_agn_neg")
MIN_SIDE = 0.01  # pixels; keeps boxes of zero distances from being empty


@PROPOSAL_GENERATOR_REGISTRY.register()
class CenterNet(nn.Module):
    """Propose boxes around predicted centres; the proposal score is the square root of the centre probability.

    The ``objectness_logits`` of its proposals are logits of that score, as those of Detectron2's RPN.
    """

    takes_context = True  # forward() accepts a BatchContext

    @configurable
    def __init__(
        self,
        *,
        head: nn.Module,
        in_features: Sequence[str],
        strides: Sequence[int],
        size_ranges: Sequence[Sequence[float]],
        min_overlap: float = 0.8,
        min_radius: float = 4.0,
        focal: dict[str, Any] | None = None,
        pos_weight: float = 0.5,
        neg_weight: float = 0.5,
        reg_weight: float = 1.0,
        location_kind: LocationLoss = "giou",
        heatmap_weighted_locations: bool = False,
        score_threshold: float = 1e-4,
        nms_threshold: tuple[float, float] = (0.9, 0.9),
        pre_nms_topk: tuple[int, int] = (4000, 1000),
        post_nms_topk: tuple[int, int] = (2000, 256),
    ) -> None:
        """Build the generator.

        Args:
            head: maps features to objectness logits and distances, as ``CenterNetHead`` does.
            in_features: names of the feature levels.
            strides: stride of every level, pixels.
            size_ranges: for every level the half-diagonals (lowest, highest) of its objects, pixels.
            min_overlap: IoU that fixes the Gaussian's radius.
            min_radius: smallest Gaussian radius, pixels.
            focal: alpha, beta, gamma, clamp, ignore_above of ``heatmap_focal_loss`` where not its defaults.
            pos_weight: weight of the positive heatmap loss.
            neg_weight: weight of the negative heatmap loss.
            reg_weight: weight of the location loss.
            location_kind: "giou", "iou" or "linear_iou".
            heatmap_weighted_locations: weigh every box location by the heatmap there instead of 1.
            score_threshold: centre probability below which a cell proposes nothing.
            nms_threshold: IoU of the suppression in (training, test).
            pre_nms_topk: cells kept per level in (training, test).
            post_nms_topk: proposals kept per image in (training, test).

        Raises:
            ValueError: if strides, size ranges and levels differ in number.
        """
        super().__init__()
        if not len(in_features) == len(strides) == len(size_ranges):
            raise ValueError(
                f"MODEL.CENTERNET: {len(in_features)} IN_FEATURES, {len(strides)} FPN_STRIDES and {len(size_ranges)} "
                "SOI must be equally many"
            )
        self.centernet_head = head
        self.in_features = tuple(in_features)
        self.strides = tuple(strides)
        self.size_ranges = [list(r) for r in size_ranges]
        self.min_overlap, self.min_radius = min_overlap, min_radius
        self.focal = focal or {}
        self.pos_weight, self.neg_weight, self.reg_weight = pos_weight, neg_weight, reg_weight
        self.location_kind = location_kind
        self.heatmap_weighted_locations = heatmap_weighted_locations
        self.score_threshold = score_threshold
        self.nms_threshold, self.pre_nms_topk, self.post_nms_topk = nms_threshold, pre_nms_topk, post_nms_topk

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.CENTERNET``.

        Args:
            cfg: the config tree.
            input_shape: channels and stride of every feature level.

        Returns:
            The arguments of the constructor.

        Raises:
            ValueError: if a feature level does not exist or FPN_STRIDES contradicts the backbone.
        """
        node = cfg.MODEL.CENTERNET
        missing = [name for name in node.IN_FEATURES if name not in input_shape]
        if missing:
            raise ValueError(f"MODEL.CENTERNET.IN_FEATURES: {missing} not among the backbone's {list(input_shape)}")
        strides = [input_shape[name].stride for name in node.IN_FEATURES]
        if strides != list(node.FPN_STRIDES):
            raise ValueError(f"MODEL.CENTERNET.FPN_STRIDES {node.FPN_STRIDES} but the backbone's strides are {strides}")
        channels = input_shape[node.IN_FEATURES[0]].channels
        return {
            "head": CenterNetHead(channels, len(strides), node.NUM_BOX_CONVS, node.NORM, node.PRIOR_PROB),
            "in_features": node.IN_FEATURES,
            "strides": strides,
            "size_ranges": node.SOI,
            "min_overlap": node.HM_MIN_OVERLAP,
            "min_radius": node.MIN_RADIUS,
            "focal": {
                "alpha": node.HM_FOCAL_ALPHA,
                "beta": node.HM_FOCAL_BETA,
                "gamma": node.LOSS_GAMMA,
                "clamp": node.SIGMOID_CLAMP,
                "ignore_above": node.IGNORE_HIGH_FP,
            },
            "pos_weight": node.POS_WEIGHT,
            "neg_weight": node.NEG_WEIGHT,
            "reg_weight": node.REG_WEIGHT,
            "location_kind": node.LOC_LOSS_TYPE,
            "heatmap_weighted_locations": not node.NOT_NORM_REG,
            "score_threshold": node.INFERENCE_TH,
            "nms_threshold": (node.NMS_TH_TRAIN, node.NMS_TH_TEST),
            "pre_nms_topk": (node.PRE_NMS_TOPK_TRAIN, node.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (node.POST_NMS_TOPK_TRAIN, node.POST_NMS_TOPK_TEST),
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
        context: BatchContext | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose boxes and, in training, compute the losses.

        Args:
            images: the batch; only its sizes are used.
            features: (B, C, H, W) for every level.
            gt_instances: boxes of every image (``gt_boxes``, pixels); needed in training.
            context: loss weights of the images, and which of them have boxes.

        Returns:
            For every image ``proposal_boxes`` (not clipped) and ``objectness_logits`` by descending score; the losses,
            empty outside training.

        Raises:
            ValueError: in training without gt_instances.
        """
        maps = [features[name] for name in self.in_features]
        teaches = self.training and (context is None or any(context.has_places))
        with torch.set_grad_enabled(teaches and torch.is_grad_enabled()):
            logits, distances = self.centernet_head(maps)
        grid = make_grid([(m.shape[2], m.shape[3]) for m in logits], self.strides, logits[0].device)
        losses = {}
        if self.training:
            if gt_instances is None:
                raise ValueError("CenterNet needs gt_instances in training")
            if not teaches:
                return self.propose(logits, distances, grid, images.image_sizes), self._no_losses(maps)
            targets = centernet_targets(
                [x.gt_boxes.tensor for x in gt_instances],
                None,
                grid,
                size_ranges=self.size_ranges,
                min_overlap=self.min_overlap,
                min_radius=self.min_radius,
            )
            losses = self.losses(_flatten(logits), _flatten(distances), targets, context)
        return self.propose(logits, distances, grid, images.image_sizes), losses

    def _no_losses(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """Losses of a batch without any boxes: 0, with zeros as the gradient of whatever others would train.

        They are connected past the head, whose gradient would cost as much as that of a batch with boxes.
        """
        mean_over_processes(maps[0].new_zeros(2))  # the other processes wait for it
        parts = (*maps, *self.centernet_head.parameters())
        nothing = torch.stack([part.flatten()[:0].sum() for part in parts]).sum()
        return dict.fromkeys(LOSSES, nothing)

    def losses(
        self, logits: Tensor, distances: Tensor, targets: CenterNetTargets, context: BatchContext | None = None
    ) -> dict[str, Tensor]:
        """Compute the weighted losses; with gradients, positives and locations are averaged over all processes.

        Args:
            logits: (M, 1) objectness logits, flattened as the targets are.
            distances: (M, 4) predicted distances, strides.
            targets: what should be predicted.
            context: loss weights of the images, and which of them have boxes; None means 1 and all.

        Returns:
            loss_centernet_loc, loss_centernet_agn_pos and loss_centernet_agn_neg, scalar tensors.
        """
        image_weights = None if context is None else context.place_weights(logits.device)
        cell_weights = None if image_weights is None else image_weights[targets.images]
        heat = targets.heatmap.amax(1)[targets.locations]
        location_weights = heat if self.heatmap_weighted_locations else torch.ones_like(heat)
        positives, locations = mean_over_processes(
            torch.stack([location_weights.new_tensor(float(len(targets.centers))), location_weights.sum()])
        ).clamp(min=1)
        positive, negative = heatmap_focal_loss(
            logits, targets.heatmap, targets.centers, normalizer=positives, weights=cell_weights, **self.focal
        )
        if cell_weights is not None:
            location_weights = location_weights * cell_weights[targets.locations]
        location = location_loss(
            distances[targets.locations],
            targets.distances,
            normalizer=locations,
            kind=self.location_kind,
            weights=location_weights,
        )
        values = (self.reg_weight * location, self.pos_weight * positive, self.neg_weight * negative)
        return dict(zip(LOSSES, values, strict=True))

    @torch.no_grad()
    def propose(
        self,
        logits: Sequence[Tensor],
        distances: Sequence[Tensor],
        grid: Grid,
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Turn maps into proposals: best cells of every level, suppression over all levels, best boxes.

        Args:
            logits: for every level (B, 1, H, W) objectness logits.
            distances: for every level (B, 4, H, W) distances, strides.
            grid: cells of the levels.
            image_sizes: height and width of every image, pixels.

        Returns:
            For every image ``proposal_boxes`` (N, 4), pixels, not clipped, and ``objectness_logits`` (N,), descending.
        """
        phase = 0 if self.training else 1
        boxes, scores = [], []
        counts = [h * w for h, w in grid.shapes]
        for level_logits, level_distances, points, stride in zip(
            logits, distances, grid.points.split(counts), self.strides, strict=True
        ):
            probability = level_logits.float().sigmoid().flatten(1)  # (B, H * W)
            best, cell = probability.topk(min(self.pre_nms_topk[phase], probability.shape[1]), dim=1)
            sides = level_distances.float().flatten(2).transpose(1, 2) * stride
            sides = sides.gather(1, cell[..., None].expand(-1, -1, 4))
            boxes.append(_boxes_around(points[cell], sides))
            scores.append(best)
        candidates = zip(torch.cat(boxes, 1), torch.cat(scores, 1), image_sizes, strict=True)
        return [self._select(image_boxes, image_scores, size, phase) for image_boxes, image_scores, size in candidates]

    def _select(self, boxes: Tensor, probability: Tensor, image_size: tuple[int, int], phase: int) -> Instances:
        passing = (probability > self.score_threshold) & boxes.isfinite().all(1)
        boxes, scores = boxes[passing], probability[passing].sqrt()
        keep = best_after_suppression(boxes, scores, self.nms_threshold[phase], self.post_nms_topk[phase])
        proposals = Instances(image_size)
        proposals.proposal_boxes = Boxes(boxes[keep])
        proposals.objectness_logits = torch.logit(scores[keep], eps=1e-7)
        return proposals


def _boxes_around(points: Tensor, sides: Tensor) -> Tensor:
    low = points - sides[..., :2]
    return torch.cat([low, torch.maximum(points + sides[..., 2:], low + MIN_SIDE)], -1)


def _flatten(maps: Sequence[Tensor]) -> Tensor:
    """Level-major, then image, then row by row: (M, C)."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]) for m in maps])

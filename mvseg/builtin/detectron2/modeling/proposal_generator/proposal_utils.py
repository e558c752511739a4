"""Choosing the best proposals of a region proposal network, and adding the ground truth to them."""

import math

import torch

from ...layers import batched_nms, cat
from ...structures import Boxes, Instances

# A ground truth box is as sure as a proposal can be: the logit of 1 - 1e-10.
_GT_LOGIT = math.log((1.0 - 1e-10) / (1 - (1.0 - 1e-10)))


def find_top_rpn_proposals(
    proposals, pred_objectness_logits, image_sizes, nms_thresh, pre_nms_topk, post_nms_topk, min_box_size, training
) -> list[Instances]:
    """Keep the best of each level, suppress overlaps within levels, and keep the best of all.

    Args:
        proposals: boxes of each level, (N, HWA, 4).
        pred_objectness_logits: their scores, (N, HWA).
        image_sizes: (height, width) of the N images.
        nms_thresh: overlap from which the worse box goes.
        pre_nms_topk: how many to keep of each level and image.
        post_nms_topk: how many to keep of each image.
        min_box_size: boxes must be longer than this on both sides, after clipping.
        training: raise on inf or nan; at test time such boxes are dropped.

    Returns:
        For each image Instances with `proposal_boxes` and `objectness_logits`, best first.
    """
    scores, boxes, levels = [], [], []
    for level, (level_boxes, level_scores) in enumerate(zip(proposals, pred_objectness_logits)):
        number = min(level_scores.shape[1], pre_nms_topk)
        top, index = level_scores.topk(number, dim=1)
        scores.append(top)
        boxes.append(level_boxes.gather(1, index[..., None].expand(-1, -1, level_boxes.shape[-1])))
        levels.append(torch.full((number,), level, dtype=torch.int64, device=top.device))
    all_scores, all_boxes, all_levels = cat(scores, dim=1), cat(boxes, dim=1), cat(levels)

    results = []
    for image_boxes, image_scores, size in zip(all_boxes, all_scores, image_sizes):
        good = image_boxes.isfinite().all(dim=1) & image_scores.isfinite()
        if training and not good.all():
            raise FloatingPointError("The proposal network predicts inf or nan: the training has diverged")
        kept, kept_scores, kept_levels = Boxes(image_boxes[good]), image_scores[good], all_levels[good]
        kept.clip(size)
        large = kept.nonempty(threshold=min_box_size)
        kept, kept_scores, kept_levels = kept[large], kept_scores[large], kept_levels[large]
        best = batched_nms(kept.tensor, kept_scores, kept_levels, nms_thresh)[:post_nms_topk]
        results.append(Instances(size, proposal_boxes=kept[best], objectness_logits=kept_scores[best]))
    return results


def add_ground_truth_to_proposals(gt: list[Instances] | list[Boxes], proposals: list[Instances]) -> list[Instances]:
    """Append the ground truth boxes of each image to its proposals, so that training sees perfect ones.

    Args:
        gt: ground truth of each image, Instances with `gt_boxes` or just Boxes.
        proposals: proposals of each image; fields beyond boxes and logits must be in `gt` as well.

    Returns:
        New Instances for each image.
    """
    return [add_ground_truth_to_proposals_single_image(*pair) for pair in zip(gt, proposals, strict=True)]


def add_ground_truth_to_proposals_single_image(gt: Instances | Boxes, proposals: Instances) -> Instances:
    """As `add_ground_truth_to_proposals`, for one image."""
    known = {} if isinstance(gt, Boxes) else gt.get_fields()
    boxes = gt if isinstance(gt, Boxes) else gt.gt_boxes
    logits = torch.full((len(boxes),), _GT_LOGIT, device=proposals.objectness_logits.device)
    fields = {**known, "proposal_boxes": boxes, "objectness_logits": logits}
    truth = Instances(proposals.image_size, **{name: fields[name] for name in proposals.get_fields()})
    return Instances.cat([proposals, truth])

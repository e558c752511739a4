"""From the size of the network's input to the size that was asked for."""

from torch import Tensor
from torch.nn import functional as F

from ..structures import Instances, ROIMasks


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Scale the detections of one image.

    Args:
        results: detections in the coordinates of the network's input; its `image_size` says which size that was.
        output_height: height wanted.
        output_width: width wanted.
        mask_threshold: probability from which a pixel belongs to a mask.

    Returns:
        Scaled detections without those whose box is empty now; `pred_masks` become (N, height, width) bool.
    """
    height, width = (int(side) for side in (output_height, output_width))
    scale_y, scale_x = height / results.image_size[0], width / results.image_size[1]
    results = Instances((height, width), **results.get_fields())
    boxes = results.get("pred_boxes" if results.has("pred_boxes") else "proposal_boxes")
    # In place, as the boxes belong to the caller's Instances too; callers rely on it.
    boxes.scale(scale_x, scale_y)
    boxes.clip(results.image_size)
    results = results[boxes.nonempty()]
    if results.has("pred_masks"):
        masks = results.pred_masks
        masks = masks if isinstance(masks, ROIMasks) else ROIMasks(masks[:, 0])
        results.pred_masks = masks.to_bitmasks(results.pred_boxes, height, width, mask_threshold).tensor
    return results


def sem_seg_postprocess(result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int) -> Tensor:
    """Cut the padding off per-class scores (C, H, W) and resize them to (C, output_height, output_width)."""
    height, width = img_size
    scores = result[None, :, :height, :width]
    return F.interpolate(scores, size=(output_height, output_width), mode="bilinear", align_corners=False)[0]

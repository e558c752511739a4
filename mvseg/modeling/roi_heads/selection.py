"""From class probabilities to detections: threshold first, then suppression on as few candidates as give the answer."""

from __future__ import annotations

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor

from mvseg.modeling.roi_heads.soft_suppression import soft_suppression

FIRST_CANDIDATES = 4096
GROWTH = 4


def fuse_scores(probabilities: Tensor, proposal_scores: Tensor) -> Tensor:
    """Combine class and proposal probability by their geometric mean.

    Args:
        probabilities: (R, n) float class probabilities.
        proposal_scores: (R,) float proposal probabilities.

    Returns:
        (R, n) float scores.

    Source: Zhou et al. 2021 (arXiv 2103.07461), section 3: P(class | object) P(object), under a root.
    """
    return (probabilities * proposal_scores[:, None]).sqrt_()


def keep_best_class(scores: Tensor) -> Tensor:
    """Leave every region only its best class.

    Args:
        scores: (R, n) float scores.

    Returns:
        (R, n) float scores, 0 except at the best class of each row.
    """
    best = scores.argmax(1, keepdim=True) if scores.shape[1] else scores.new_zeros((len(scores), 0), dtype=torch.long)
    return torch.zeros_like(scores).scatter(1, best, scores.gather(1, best))


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    image_size: tuple[int, int],
    *,
    score_threshold: float | Tensor,
    nms_threshold: float,
    topk: int,
    class_agnostic: bool = False,
    soft_sigma: float | None = None,
) -> tuple[Instances, Tensor]:
    """Keep the best detections of one image after suppression, within each class or over all classes.

    Suppression looks at the best candidates, and at more only if too few of them survive. A candidate never suppresses
    a better one, so the result is that of suppressing all, while memory stays small with thousands of classes.

    Args:
        boxes: (R, 4) float, pixels, one box for all classes.
        scores: (R, n) float scores.
        image_size: height and width that boxes are clipped to, pixels.
        score_threshold: scores must be above it: a number, or (n,) float, one for each class.
        nms_threshold: IoU above which the worse of two boxes goes; 1 keeps all.
        topk: largest number of detections; negative keeps all.
        class_agnostic: a box also suppresses the worse boxes of other classes.
        soft_sigma: width of the Gaussian by which scores fall with the overlap, instead of a threshold on the overlap;
            None: worse boxes go.

    Returns:
        ``pred_boxes``, ``scores`` and ``pred_classes`` by descending score, and (N,) int64 row of each.
    """
    # A sum of finite probabilities is finite, and needs no copy of (R, n) numbers as isfinite() does.
    valid = boxes.isfinite().all(1) & scores.sum(1).isfinite()
    clipped = Boxes(torch.where(valid[:, None], boxes, torch.zeros_like(boxes)).float())
    clipped.clip(image_size)
    rows, classes = (scores > score_threshold).logical_and_(valid[:, None]).nonzero(as_tuple=True)
    passing = scores[rows, classes].float()
    count = FIRST_CANDIDATES if topk >= 0 else len(passing)
    while True:
        best = _best(passing, count)
        groups = torch.zeros_like(best) if class_agnostic else classes[best]
        if soft_sigma is None:
            keep = batched_nms(clipped.tensor[rows[best]], passing[best], groups, nms_threshold)
            keep = keep if topk < 0 else keep[:topk]
            final, enough = passing[best[keep]], len(keep) >= topk
        else:
            limit = score_threshold[classes[best]] if isinstance(score_threshold, Tensor) else score_threshold
            keep, final = soft_suppression(
                clipped.tensor, passing[best], rows[best], groups, sigma=soft_sigma, score_threshold=limit, topk=topk
            )
            # What was left out is at most as good as the last candidate, and its score can only fall.
            enough = len(keep) >= topk and (topk <= 0 or bool(final[-1] >= passing[best[-1]]))
        if count >= len(passing) or enough:
            break
        count *= GROWTH
    kept = best[keep]
    result = Instances(image_size)
    result.pred_boxes = Boxes(clipped.tensor[rows[kept]])
    result.scores = final
    result.pred_classes = classes[kept]
    return result, rows[kept]


def _best(scores: Tensor, count: int) -> Tensor:
    """Positions of the best scores, best first, equal ones in their order; not all scores are sorted for it."""
    if count >= len(scores):
        return scores.argsort(descending=True, stable=True)
    enough = (scores >= scores.topk(count).values[-1]).nonzero()[:, 0]  # count of them, and what equals the last
    return enough[scores[enough].argsort(descending=True, stable=True)][:count]

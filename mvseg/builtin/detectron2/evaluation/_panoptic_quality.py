"""Panoptic quality, and the coding of segment ids as colours.

Source: Kirillov et al., Panoptic Segmentation, CVPR 2019, section 4; the treatment of void and crowd regions is that of
the COCO panoptic challenge.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

VOID = 0


def id2rgb(id_map: np.ndarray) -> np.ndarray:
    """Code segment ids (H, W) as colours (H, W, 3) uint8: id = R + 256 G + 256^2 B."""
    ids = np.asarray(id_map, dtype=np.uint32)
    return np.stack([(ids >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def rgb2id(color: np.ndarray) -> np.ndarray:
    """Decode colours (H, W, 3) to segment ids (H, W) int64."""
    return np.asarray(color).astype(np.int64)[..., :3] @ np.array([1, 256, 256**2])


@dataclass
class ClassCounts:
    """Matches, misses and false alarms of one category."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def quality(self) -> tuple[float, float, float]:
        """Return (PQ, SQ, RQ)."""
        found = (self.tp + 0.5 * self.fp + 0.5 * self.fn) or 1.0
        return self.iou / found, self.iou / (self.tp or 1), self.tp / found


def count_image(truth, truth_segments, predicted, predicted_segments, counts: dict[int, ClassCounts]) -> None:
    """Add one image to the counts.

    Args:
        truth: true segment ids (H, W); 0 is void.
        truth_segments: id, category_id and iscrowd of each true segment.
        predicted: predicted segment ids (H, W); 0 is void.
        predicted_segments: id and category_id of each predicted segment.
        counts: category id -> counts; changed in place.

    Raises:
        ValueError: if sizes, ids or categories do not fit together.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"the prediction has size {predicted.shape}, but the ground truth {truth.shape}")
    true_by_id = {segment["id"]: segment for segment in truth_segments}
    pred_by_id = {segment["id"]: segment for segment in predicted_segments}
    _check(predicted, pred_by_id, counts)

    pairs, sizes = np.unique(np.stack([truth.ravel(), predicted.ravel()]), axis=1, return_counts=True)
    overlap = {(int(t), int(p)): int(size) for (t, p), size in zip(pairs.T, sizes)}
    true_area, pred_area = _areas(truth), _areas(predicted)
    matched_true, matched_pred = set(), set()
    for (true_id, pred_id), common in overlap.items():
        target, guess = true_by_id.get(true_id), pred_by_id.get(pred_id)
        if not target or not guess or target.get("iscrowd", 0) or target["category_id"] != guess["category_id"]:
            continue
        union = pred_area[pred_id] + true_area[true_id] - common - overlap.get((VOID, pred_id), 0)
        if common / union > 0.5:
            counts[target["category_id"]].tp += 1
            counts[target["category_id"]].iou += common / union
            matched_true.add(true_id)
            matched_pred.add(pred_id)

    crowd_of = {segment["category_id"]: key for key, segment in true_by_id.items() if segment.get("iscrowd", 0)}
    for true_id, target in true_by_id.items():
        if true_id not in matched_true and not target.get("iscrowd", 0):
            counts[target["category_id"]].fn += 1
    for pred_id, guess in pred_by_id.items():
        if pred_id in matched_pred:
            continue
        # Predictions mostly over void or a crowd of their class are no false alarms.
        ignored = overlap.get((VOID, pred_id), 0)
        if guess["category_id"] in crowd_of:
            ignored += overlap.get((crowd_of[guess["category_id"]], pred_id), 0)
        if ignored / pred_area[pred_id] <= 0.5:
            counts[guess["category_id"]].fp += 1


def _areas(ids: np.ndarray) -> dict[int, int]:
    return dict(zip(*(array.tolist() for array in np.unique(ids, return_counts=True))))


def _check(predicted: np.ndarray, pred_by_id: Mapping[int, Mapping], counts: Mapping[int, ClassCounts]) -> None:
    drawn, listed = set(np.unique(predicted).tolist()) - {VOID}, set(pred_by_id)
    if drawn != listed:
        raise ValueError(f"segments only in the predicted image: {drawn - listed}; only in the list: {listed - drawn}")
    for segment in pred_by_id.values():
        if segment["category_id"] not in counts:
            raise ValueError(f"predicted segment {segment['id']} has the unknown category {segment['category_id']}")


def average(counts: Mapping[int, ClassCounts], categories: Iterable[int]) -> dict[str, float]:
    """Average PQ, SQ and RQ over the categories that occur; "n" says how many those are."""
    present = [counts[key].quality() for key in categories if counts[key].tp + counts[key].fp + counts[key].fn]
    means = np.mean(present, axis=0).tolist() if present else [0.0, 0.0, 0.0]
    return {"pq": means[0], "sq": means[1], "rq": means[2], "n": len(present)}

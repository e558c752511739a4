"""Ask a detector for the classes that a dataset does not annotate, and write what it finds as COCO JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, BoxMode, Instances
from torch import Tensor
from torchvision.ops import box_iou

from mvseg.data.pseudo_boxes import FORMAT
from mvseg.inference.pseudo_boxes.confidence import dropout_in_box_heads, localization_confidence
from mvseg.vocabulary import LabelSpace

SEED = 0  # of the dropout, anew for every image: the result does not depend on the order of the images


def other_columns(space: LabelSpace, dataset: str, same_word: float | None = None) -> Tensor:
    """Find the label columns that a dataset does not annotate under any name.

    Args:
        space: the label columns of the detector.
        dataset: one of its datasets.
        same_word: cosine of text embeddings from which another dataset's word means the same; None: only equal words
            and synonyms do.

    Returns:
        (n,) bool.

    Raises:
        ValueError: if the detector does not know the dataset.
    """
    if dataset not in space.datasets:
        raise ValueError(
            f"the detector was not trained with dataset {dataset!r}, so nobody knows which of its words are annotated "
            f"there; it knows {', '.join(space.datasets)}"
        )
    own = torch.zeros(space.n, dtype=torch.bool)
    own[space.columns(dataset)] = True
    known = own.clone()
    for alias in space.aliases(same_word if space.embeddings is not None else None):
        known[alias.first] |= own[alias.second]
        known[alias.second] |= own[alias.first]
    return ~known


class Finder:
    """Finds objects of some label columns.

    Args:
        model: a ``MultiDatasetRCNN`` in evaluation mode.
        thresholds: (n,) float least score of every label column; infinite: it is not looked for.
        passes: disturbed passes for the confidence in the place; 0: none, it is 1.
        dropout: probability that a number of a region feature is dropped in them.
    """

    def __init__(self, model: Any, thresholds: Tensor, passes: int = 0, dropout: float = 0.2) -> None:
        self.model, self.passes, self.dropout = model, passes, dropout
        self.thresholds = thresholds.to(model.device)
        model.set_vocabulary(None)
        model.roi_heads.mask_on = False

    @torch.no_grad()
    def __call__(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[Instances]:
        """Find the objects of a batch.

        Args:
            batched_inputs: as the model takes them at test time.

        Returns:
            For every image ``pred_boxes``, pixels of the record's size, ``pred_classes``, label columns, ``scores`` and
            ``localization``, both 0 to 1.
        """
        model, inputs = self.model, list(batched_inputs)
        images = model.preprocess_image(inputs)
        features = model.backbone(images.tensor)
        if model.proposal_generator is None:
            proposals = [record["proposals"].to(model.device) for record in inputs]
        else:
            proposals, _ = model.proposal_generator(images, features, None)
        model.roi_heads.score_threshold = self.thresholds
        found, _ = model.roi_heads(images, features, proposals)
        again = self._disturbed(images, features, proposals) if self.passes else []
        for number, image in enumerate(found):
            others = [(each[number].pred_boxes.tensor, each[number].pred_classes) for each in again]
            sure = localization_confidence(image.pred_boxes.tensor, image.pred_classes, others) if again else None
            image.localization = torch.ones(len(image)) if sure is None else sure
        return [answer["instances"] for answer in model._postprocess(found, inputs, images.image_sizes)]

    def _disturbed(self, images: Any, features: Any, proposals: Any) -> list[list[Instances]]:
        heads = self.model.roi_heads
        heads.score_threshold = self.thresholds / 2  # a thing may well have a lower score in a disturbed pass
        with torch.random.fork_rng(), dropout_in_box_heads(heads, self.dropout):
            torch.manual_seed(SEED)
            return [heads(images, features, proposals)[0] for _ in range(self.passes)]


def without_drawn(found: Instances, annotations: Sequence[Mapping[str, Any]], most_iou: float) -> Instances:
    """Leave out what people drew a box around already, under another word.

    Args:
        found: detections, ``pred_boxes``.
        annotations: of the same image, ``bbox`` and ``bbox_mode``.
        most_iou: largest IoU with a drawn box, 0 to 1.

    Returns:
        The others.
    """
    if not annotations or not len(found):
        return found
    drawn = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    overlaps = box_iou(found.pred_boxes.tensor.cpu().float(), torch.tensor(drawn, dtype=torch.float32))
    return found[(overlaps.amax(1) <= most_iou).to(found.pred_boxes.device)]


def pseudo_tree(
    found: Mapping[Any, Instances], space: LabelSpace, facts: Mapping[str, Any], images: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write what was found as the tree of a file that :mod:`mvseg.data.pseudo_boxes` reads.

    Args:
        found: image id to its detections, as :class:`Finder` gives them.
        space: what the label columns mean.
        facts: ``dataset``, ``images_fingerprint`` and whatever else the boxes depend on.
        images: what the file says of the images.

    Returns:
        The tree; ids of categories are label columns + 1, those of columns that nothing was found of are left out.
    """
    owners = {}
    for dataset in reversed(space.datasets):
        names = space.vocabularies[dataset].names
        owners.update({column: (dataset, names[k]) for k, column in enumerate(space.columns(dataset).tolist())})
    annotations: list[dict[str, Any]] = []
    for image, instances in found.items():
        boxes: Boxes = instances.pred_boxes
        rows = zip(
            boxes.tensor.tolist(), *(instances.get(k).tolist() for k in ("pred_classes", "scores", "localization"))
        )
        for (x0, y0, x1, y1), column, score, sure in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": column + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "score": score,
                    "localization": sure,
                    "weight": min(max(score * sure, 0.0), 1.0),
                }
            )
    columns = sorted({annotation["category_id"] - 1 for annotation in annotations})
    categories = [{"id": c + 1, "name": owners[c][1], "dataset": owners[c][0]} for c in columns]
    info = {"format": FORMAT, **facts}
    return {"info": info, "images": list(images), "categories": categories, "annotations": annotations}

"""What the detector reads from the records of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, Instances

from mvseg.modeling.objectives.pseudo_boxes import PSEUDO, WEIGHTS
from mvseg.vocabulary import LabelSpace, did_you_mean


def check_proposals(batched_inputs: Sequence[Mapping[str, Any]]) -> None:
    """Check that every image of a batch brings its proposals.

    Args:
        batched_inputs: the batch.

    Raises:
        ValueError: if one does not; the message names its dataset and says how it gets them.
    """
    for record in batched_inputs:
        if record.get("proposals") is None:
            raise ValueError(
                f"dataset {record.get('dataset')!r}, image {name_of(record)} has no proposals, and "
                "MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals makes none: store them (python -m "
                "mvseg.inference.proposals) and name their folder in DATASETS.MIX (proposals), in "
                "DATASETS.PROPOSAL_FILES_TEST, or in the dataset's card"
            )


def instances_of(record: Mapping[str, Any]) -> Instances:
    """Give the instances of a record; none where a mapper made none because the annotation has no places.

    Args:
        record: a model input.

    Returns:
        Its ``instances``, or empty ones.
    """
    if record.get("instances") is not None:
        return record["instances"]
    height, width = record["image"].shape[-2:]
    nothing = Instances((height, width), gt_boxes=Boxes(torch.zeros(0, 4)))
    nothing.gt_classes = torch.zeros(0, dtype=torch.long)
    return nothing


def name_of(record: Mapping[str, Any]) -> Any:
    """Say how to call an image in a message.

    Args:
        record: a model input.

    Returns:
        Its id, else its file name.
    """
    return record.get("image_id", record.get("file_name"))


def with_pseudo_boxes(instances: Instances, record: Mapping[str, Any], space: LabelSpace) -> Instances:
    """Put the boxes that a detector found in an image of training behind those that people drew.

    Args:
        instances: the latter, ``gt_boxes`` (N, 4) and ``gt_classes`` (N,), label columns.
        record: a model input, perhaps with ``pseudo_boxes``: ``gt_boxes`` (M, 4), ``gt_weights`` (M,), ``gt_sources``
            (M,) index into ``pseudo_datasets``, and ``gt_classes`` (M,) index into the words of that dataset.
        space: the label columns.

    Returns:
        ``gt_boxes`` (N + M, 4), ``gt_classes`` (N + M,) label columns, ``gt_weights`` (N + M,) float32 and
        ``gt_pseudo`` (N + M,) bool; the same instances if the record has no pseudo boxes.

    Raises:
        ValueError: if a dataset of the words does not belong to the training, or the instances have masks.
    """
    pseudo = record.get("pseudo_boxes")
    if pseudo is None:
        return instances
    where = f"dataset {record.get('dataset')!r}, image {name_of(record)}"
    if instances.has("gt_masks"):
        raise ValueError(f"{where}: pseudo boxes have no masks: set MODEL.MASK_ON False")
    columns = torch.zeros(len(pseudo), dtype=torch.long)
    for number, dataset in enumerate(record["pseudo_datasets"]):
        chosen = pseudo.gt_sources == number
        if not chosen.any():
            continue
        if dataset not in space.datasets:
            raise ValueError(
                f"{where}: its pseudo boxes have words of dataset {dataset!r}, which is not trained with"
                f"{did_you_mean(dataset, space.datasets)}: add it to DATASETS.MIX, or make the file anew"
            )
        columns[chosen] = space.to_columns(dataset, pseudo.gt_classes[chosen])
    drawn = len(instances)
    classes = instances.gt_classes if drawn else columns[:0]
    boxes = instances.gt_boxes if drawn else Boxes(torch.zeros(0, 4))
    joined = Instances(instances.image_size, gt_boxes=Boxes.cat([boxes, pseudo.gt_boxes]))
    joined.gt_classes = torch.cat([classes, columns])
    joined.set(WEIGHTS, torch.cat([torch.ones(drawn), pseudo.gt_weights.float()]))
    joined.set(PSEUDO, torch.arange(len(joined)) >= drawn)
    return joined

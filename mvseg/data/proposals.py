"""Stored proposals of the images that are trained or tested on: which folder, and how they follow the augmentation."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from mvseg.data.catalog import get_card, get_records
from mvseg.data.mixing import mixture_from_config
from mvseg.data.proposal_files import BOXES, SCORES, ProposalFolder

SAMPLED_RECORDS = 1000  # of a dataset, evenly spread, that its fingerprint is made of
FILES = "DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST"
SMALLEST = 1e-6  # from the ends 0 and 1 of a score, whose logits would be infinite


def images_fingerprint(records: Sequence[Mapping[str, Any]]) -> str:
    """Compute a number that tells two versions of a dataset's images apart, wherever they lie.

    Args:
        records: all records of a dataset, in its order.

    Returns:
        Hash of their number, and of id, file name and size of up to 1,000 evenly spread ones.
    """
    digest = hashlib.blake2b(str(len(records)).encode(), digest_size=16)
    for row in np.unique(np.linspace(0, max(len(records) - 1, 0), SAMPLED_RECORDS).astype(int)).tolist():
        if row < len(records):
            record = records[row]
            facts = (record["image_id"], PurePath(record["file_name"]).name, record.get("height"), record.get("width"))
            digest.update(repr(facts).encode())
    return digest.hexdigest()


def wants_proposals(cfg: CfgNode) -> bool:
    """Say whether a config's model reads stored proposals.

    Args:
        cfg: the config.

    Returns:
        True with ``MODEL.PROPOSAL_GENERATOR.NAME`` PrecomputedProposals, or ``MODEL.LOAD_PROPOSALS``.
    """
    return bool(cfg.MODEL.LOAD_PROPOSALS) or cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals"


def proposal_folders(cfg: CfgNode) -> dict[str, str]:
    """Look up where the proposals of the datasets of a config lie.

    Args:
        cfg: the config: ``proposals`` in ``DATASETS.MIX``, then ``DATASETS.PROPOSAL_FILES_TRAIN`` and ``_TEST`` (one
            folder for each dataset, in order), then the card of the dataset.

    Returns:
        Dataset name to folder, of those that have one; empty if the model reads no proposals.

    Raises:
        ValueError: if the folders are not as many as the datasets, or nothing would read those of the mixture.
    """
    mixed = {entry.name: entry.proposals for entry in mixture_from_config(cfg)} if cfg.DATASETS.TRAIN else {}
    if not wants_proposals(cfg):
        named = [name for name, folder in mixed.items() if folder]
        if named:
            raise ValueError(
                f"DATASETS.MIX, dataset {named[0]!r}: proposals are named, but nothing reads them: set "
                "MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals, or MODEL.LOAD_PROPOSALS True"
            )
        return {}
    found: dict[str, str] = {}
    listed = (cfg.DATASETS.PROPOSAL_FILES_TRAIN, cfg.DATASETS.PROPOSAL_FILES_TEST)
    for key, names, folders in zip(FILES, (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST), listed, strict=True):
        if folders and len(folders) != len(names):
            raise ValueError(f"{key} names {len(folders)} folders for {len(names)} datasets {tuple(names)}")
        found.update(zip(names, folders) if folders else {})
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        card = get_card(name)
        folder = mixed.get(name) or found.get(name) or (str(card.resolve(card.proposals)) if card.proposals else "")
        if not isinstance(folder, str):
            raise ValueError(f"dataset {name!r}: proposals must name a folder, got {folder!r}")
        if folder:
            found[name] = folder
    return found


def open_proposals(cfg: CfgNode, names: Collection[str] | None = None) -> dict[str, ProposalFolder]:
    """Open the stored proposals of the datasets of a config, and check that they belong to their images.

    Args:
        cfg: the config; its cards must be registered.
        names: datasets that will be read, whose records the check needs; None: all of the config.

    Returns:
        Dataset name to its proposals.
    """
    opened = {}
    for name, folder in proposal_folders(cfg).items():
        if names is not None and name not in names:
            continue
        opened[name] = ProposalFolder(folder, f"dataset {name!r}")
        opened[name].check_dataset(name, images_fingerprint(get_records(name)))
    return opened


def proposals_of(arrays: Mapping[str, Any], transforms: Any, size: tuple[int, int], topk: int) -> Instances:
    """Move stored proposals along with an augmentation.

    Args:
        arrays: ``boxes`` (k, 4) in pixels of the image file and ``scores`` (k,), best first.
        transforms: Detectron2's transforms of the image.
        size: height and width of the augmented image, pixels.
        topk: largest number of proposals.

    Returns:
        ``proposal_boxes`` (n, 4), clipped to the augmented image, without those that lie outside, and their
        ``objectness_logits`` (n,), float32.
    """
    boxes = Boxes(torch.from_numpy(transforms.apply_box(np.array(arrays[BOXES], np.float64))).float())
    boxes.clip(size)
    kept = boxes.nonempty().nonzero()[:topk, 0]
    scores = torch.from_numpy(np.array(arrays[SCORES], np.float32))[kept]
    return Instances(size, proposal_boxes=boxes[kept], objectness_logits=torch.logit(scores, eps=SMALLEST))

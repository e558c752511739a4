"""A teacher's embeddings of image crops: the folder they lie in, and how they follow the augmentation.

The files are those of :mod:`mvseg.data.proposal_files`: the boxes that were cropped, their scores, and beside them
``shard-00003.embeddings.npy`` (rows, D) float16, rows of unit length. ``python -m mvseg.distill embed`` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from mvseg.data.catalog import get_card, get_records
from mvseg.data.mixing import mixture_from_config
from mvseg.data.proposal_files import BOXES, STARTS, Array, ImageId, ProposalFileError, ProposalFolder
from mvseg.data.proposals import images_fingerprint

EMBEDDINGS = "embeddings"
CONTENT = "mvseg crop embeddings"
COMMAND = "python -m mvseg.distill embed"
LENGTH_TOLERANCE = 0.01  # of a row of 1,024 rounded to float16 it is below 0.001


class CropEmbeddingFolder(ProposalFolder):
    """Reads stored crop embeddings at random, in constant memory.

    Checksums are left to ``python -m mvseg.distill check``: the files are large, and comparing them would read every
    one as a whole in every loading process. What is read is looked at instead: its rows have the length one.

    Args:
        folder: the folder.
        where: dataset named in errors.

    Raises:
        FileNotFoundError: if there is no folder of crop embeddings.
        ProposalFileError: if it is unfinished, has another version or holds something else.
    """

    what = "crop embeddings"
    command = COMMAND
    arguments = "DATASET --proposals FOLDER --teacher TEACHER --output FOLDER"
    compares = False

    def __init__(self, folder: str | Path, where: str = "") -> None:
        super().__init__(folder, where)
        if self.manifest.get("format") != CONTENT:
            raise ProposalFileError(
                f"{self.where}{self.folder} holds {self.manifest.get('format')!r}, not {CONTENT!r}: make them with "
                f"{self.command} {self.arguments}"
            )

    @property
    def width(self) -> int:
        """Width of the embeddings.

        Returns:
            Number of values of an embedding.
        """
        return int(self.manifest["width"])

    def read(self, image_id: ImageId) -> dict[str, Array]:
        """Read the crop embeddings of an image.

        Args:
            image_id: the image.

        Returns:
            ``boxes`` (k, 4) in pixels of the image file, best first, ``scores`` (k,), ``embeddings`` (k, D) float16;
            mapped, so copy what you change.

        Raises:
            ProposalFileError: if the image has rows of another width, or they are no embeddings.
        """
        arrays = super().read(image_id)
        rows = arrays[EMBEDDINGS]
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ProposalFileError(
                f"{self.where}image {image_id!r}: its crop embeddings in {self.folder} have the shape {rows.shape}, "
                f"the manifest says width {self.width}: run python -m mvseg.distill check {self.folder}"
            )
        lengths = np.linalg.norm(rows.astype(np.float32), axis=1)
        if not (np.abs(lengths - 1) < LENGTH_TOLERANCE).all():  # also of what is not finite
            raise ProposalFileError(
                f"{self.where}image {image_id!r}: its crop embeddings in {self.folder} do not have the length 1, so "
                f"the file is damaged: run python -m mvseg.distill check {self.folder}, then {self.command} as before"
            )
        return arrays

    def _map_shard(self, number: int) -> dict[str, Array]:
        arrays = super()._map_shard(number)
        promised = int(arrays[STARTS][-1])
        short = {name: len(rows) for name, rows in arrays.items() if name != STARTS and len(rows) != promised}
        if short:
            raise ValueError(f"shard {number} promises {promised} proposals, its files have {short}")
        return arrays


def wants_crop_embeddings(cfg: CfgNode) -> bool:
    """Say whether a config's model learns from crop embeddings.

    Args:
        cfg: the config.

    Returns:
        True if ``MODEL.DISTILLATION.WEIGHT`` is above 0.
    """
    return cfg.MODEL.DISTILLATION.WEIGHT > 0


def crop_embedding_folders(cfg: CfgNode) -> dict[str, str]:
    """Look up where the crop embeddings of the training sets of a config lie.

    Args:
        cfg: the config: ``crop_embeddings`` in ``DATASETS.MIX``, then the card of the dataset.

    Returns:
        Dataset name to folder, of those that have one; empty if the model learns from none.

    Raises:
        ValueError: if the mixture names a folder that nothing would read, or something else than a folder.
    """
    found = {}
    wanted = wants_crop_embeddings(cfg)
    for entry in mixture_from_config(cfg) if cfg.DATASETS.TRAIN else ():
        named: Any = entry.crop_embeddings
        if named is not None and not isinstance(named, str):
            raise ValueError(f"DATASETS.MIX, dataset {entry.name!r}: crop_embeddings must name a folder, got {named!r}")
        if named and not wanted:
            raise ValueError(
                f"DATASETS.MIX, dataset {entry.name!r}: crop_embeddings are named, but nothing learns from them: set "
                "MODEL.DISTILLATION.WEIGHT above 0"
            )
        if not wanted:
            continue
        card = get_card(entry.name)
        folder = named or (str(card.resolve(card.crop_embeddings)) if card.crop_embeddings else "")
        if folder:
            found[entry.name] = folder
    return found


def open_crop_embeddings(cfg: CfgNode) -> dict[str, CropEmbeddingFolder]:
    """Open the crop embeddings of the training sets of a config, and check that they belong to their images.

    Args:
        cfg: the config; its cards must be registered.

    Returns:
        Dataset name to its crop embeddings.

    Raises:
        ProposalFileError: if the folders of two datasets have embeddings of different teachers.
    """
    opened: dict[str, CropEmbeddingFolder] = {}
    for name, folder in crop_embedding_folders(cfg).items():
        opened[name] = CropEmbeddingFolder(folder, f"dataset {name!r}")
        opened[name].check_dataset(name, images_fingerprint(get_records(name)))
        first = next(iter(opened))
        if opened[name].manifest.get("teacher") != opened[first].manifest.get("teacher"):
            raise ProposalFileError(
                f"the crop embeddings of the datasets {first!r} ({opened[first].folder}, width {opened[first].width}) "
                f"and {name!r} ({folder}, width {opened[name].width}) come from different teachers; a student has one: "
                f"make one of them again, {COMMAND}"
            )
    return opened


def embeddings_of(
    arrays: Mapping[str, Array], transforms: Any, size: tuple[int, int], topk: int, kept_area: float = 0.5
) -> Instances:
    """Move stored crop embeddings along with an augmentation.

    Args:
        arrays: ``boxes`` (k, 4) in pixels of the image file, best first, and ``embeddings`` (k, D).
        transforms: Detectron2's transforms of the image.
        size: height and width of the augmented image, pixels.
        topk: largest number of embeddings.
        kept_area: a box is left out if less than this share of its area lies inside the augmented image.

    Returns:
        ``proposal_boxes`` (n, 4), float32, clipped to the augmented image, and ``gt_embeddings`` (n, D), float16.
    """
    whole = Boxes(torch.from_numpy(transforms.apply_box(np.array(arrays[BOXES], np.float64))).float())
    boxes = whole.clone()
    boxes.clip(size)
    usable = boxes.nonempty() & (boxes.area() >= kept_area * whole.area())
    kept = usable.nonzero()[:topk, 0]
    rows = torch.from_numpy(np.array(arrays[EMBEDDINGS][kept.numpy()], np.float16))
    return Instances(size, proposal_boxes=boxes[kept], gt_embeddings=rows)

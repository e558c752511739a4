"""Stores a teacher's embeddings of the crops of a dataset's proposals, shard by shard, going on after a kill."""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import build_detection_test_loader
from detectron2.utils import comm

from mvseg.data.crop_embeddings import COMMAND, CONTENT, EMBEDDINGS
from mvseg.data.loader import shared_records
from mvseg.data.proposal_files import (
    BOXES,
    MANIFEST,
    SCORES,
    Array,
    Arrays,
    ProposalFolder,
    finish_job,
    is_whole,
    start_job,
    write_shard,
)
from mvseg.data.proposals import images_fingerprint
from mvseg.data.reading import ImageReadError, check_image_size, read_image
from mvseg.data.records import Record, load_records
from mvseg.inference.progress import Progress
from mvseg.modeling.crop_teacher import CropTeacher

logger = logging.getLogger(__name__)
REPAIR = f"run {COMMAND} with the same arguments again: it keeps what is whole"


@dataclass(frozen=True)
class Selection:
    """Which of an image's proposals are cropped.

    Args:
        topk: largest number, best first.
        score_threshold: they score more, 0 to 1.
        min_size: their shorter side has at least so many pixels.
        least: an image with fewer is an error.
    """

    topk: int = 300
    score_threshold: float = 0.0
    min_size: float = 0.0
    least: int = 0

    def rows(self, arrays: Mapping[str, Array]) -> Array:
        """Choose proposals.

        Args:
            arrays: ``boxes`` (k, 4) and ``scores`` (k,), best first.

        Returns:
            Row numbers (n,), ascending.
        """
        boxes, scores = arrays[BOXES], arrays[SCORES]
        shorter = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        return np.flatnonzero((scores > self.score_threshold) & (shorter >= self.min_size))[: self.topk]


class _Mapper:
    """Reads an image and chooses its proposals."""

    def __init__(self, dataset: str, proposals: ProposalFolder, selection: Selection) -> None:
        self.dataset, self.proposals, self.selection = dataset, proposals, selection

    def __call__(self, record: Record) -> dict[str, Any]:
        where = f"dataset {self.dataset!r}, image {record.get('image_id')!r}"
        arrays = self.proposals.read(record["image_id"])
        rows = self.selection.rows(arrays)
        if len(rows) < self.selection.least:
            raise ValueError(
                f"{where}: {len(rows)} of its {len(arrays[BOXES])} proposals in {self.proposals.folder} pass the "
                f"filters, {self.selection.least} were promised: lower --at-least or the filters, or store more"
            )
        try:
            image = read_image(str(record["file_name"]), "RGB")
        except ImageReadError as error:
            raise ImageReadError(
                f"{where}: {error}. Repair it, or take it out of the annotations; what is finished is kept"
            ) from error
        check_image_size(record, image)
        return {
            "image_id": record["image_id"],
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            BOXES: np.array(arrays[BOXES][rows], np.float32),
            SCORES: np.array(arrays[SCORES][rows], np.float32),
        }


@dataclass(frozen=True)
class EmbeddingJob:
    """What is embedded and where it goes.

    Args:
        dataset: name of the dataset.
        proposals: folder of its stored proposals.
        output: folder of the embeddings.
        teacher_description: how the command line calls the teacher.
        selection: which proposals.
        shard_images: images of a shard.
        num_workers: loading processes.
        images_at_a_time: images whose crops share the teacher's batches; part of a shard.
    """

    dataset: str
    proposals: Path
    output: Path
    teacher_description: str = ""
    selection: Selection = Selection()
    shard_images: int = 250
    num_workers: int = 0
    images_at_a_time: int = 8


def estimate_size(job: EmbeddingJob, width: int) -> tuple[int, int]:
    """Count the crops of a job without reading an image.

    Args:
        job: the job.
        width: width of the teacher's embeddings.

    Returns:
        Number of boxes to embed, of the sampled images extrapolated to all, and bytes on disk.
    """
    stored = ProposalFolder(job.proposals, f"dataset {job.dataset!r}")
    records = load_records(job.dataset)
    sample = np.unique(np.linspace(0, max(len(records) - 1, 0), 200).astype(int)).tolist() if len(records) else []
    counts = [len(job.selection.rows(stored.read(records[row]["image_id"]))) for row in sample]
    boxes = round(float(np.mean(counts or [0])) * len(records))
    return boxes, boxes * (2 * width + 4 * 5) + 64 * len(records)


def embed_dataset(teacher: CropTeacher, job: EmbeddingJob) -> int:
    """Write the crop embeddings of every image of a dataset; shards that are whole are kept.

    Args:
        teacher: the teacher.
        job: what is embedded.

    Returns:
        Number of images that this process embedded.

    Raises:
        ValueError: if the proposals are fewer than asked for, or the shards are to have no images.
        OSError: if the disk is full; finished shards are kept.
    """
    if job.shard_images < 1:
        raise ValueError(f"a shard has at least one image, not {job.shard_images}")
    stored, records = ProposalFolder(job.proposals, f"dataset {job.dataset!r}"), load_records(job.dataset)
    stored.check_dataset(job.dataset, images_fingerprint(records))
    held = stored.manifest.get("topk")
    if held is not None and held < job.selection.topk:
        raise ValueError(
            f"dataset {job.dataset!r}: {job.selection.topk} proposals of an image are asked for, {job.proposals} holds "
            f"at most {held}: store more (python -m mvseg.inference.proposals --topk {job.selection.topk}) or give "
            f"--topk {held}"
        )
    count = -(-len(records) // job.shard_images)
    if comm.is_main_process():
        start_job(job.output, _facts(teacher, job, stored, records))
    comm.synchronize()  # by the number of the shard, so that it does not matter how many processes there were before
    own = range(comm.get_rank(), count, comm.get_world_size())
    missing = [number for number in own if not is_whole(job.output, number)]
    if len(missing) < len(own):
        logger.info("%s: %d of %d shards are already there", job.output, len(own) - len(missing), len(own))
    embedded = _embed_shards(teacher, job, _Mapper(job.dataset, stored, job.selection), records, missing)
    comm.synchronize()
    if comm.is_main_process():
        for left in job.output.glob(".shard-*"):  # of killed processes
            left.unlink()
        finish_job(job.output, count, CONTENT, REPAIR)
    comm.synchronize()
    return embedded


def _embed_shards(teacher: CropTeacher, job: EmbeddingJob, mapper: _Mapper, records: Any, missing: list[int]) -> int:
    shards = [range(n * job.shard_images, min((n + 1) * job.shard_images, len(records))) for n in missing]
    rows = [row for shard in shards for row in shard]
    loader = build_detection_test_loader(
        shared_records(records), mapper=mapper, sampler=rows, num_workers=job.num_workers
    )
    width = embedding_width(teacher)
    batches, progress = iter(loader), Progress(len(rows), "images")
    for number, shard in zip(missing, shards, strict=True):
        images: list[tuple[Any, Arrays]] = []
        while len(images) < len(shard):  # batches end with the shard, so that a killed job computes the same numbers
            inputs = [next(batches)[0] for _ in range(min(job.images_at_a_time, len(shard) - len(images)))]
            found = teacher([i["image"] for i in inputs], [torch.from_numpy(i[BOXES]) for i in inputs])
            images += [(i["image_id"], _arrays(i, e.numpy())) for i, e in zip(inputs, found, strict=True)]
            progress.step(len(inputs))
        write_embeddings(job.output, number, images, width)
    progress.close()
    return len(rows)


def write_embeddings(folder: Path, number: int, images: list[tuple[Any, Arrays]], width: int) -> None:
    """Write a shard, and say what to do if the disk is full.

    Args:
        folder: the folder.
        number: number of the shard.
        images: image id and arrays of each image; those without boxes may have embeddings of another width.
        width: width of the embeddings.

    Raises:
        OSError: if the shard cannot be written.
    """
    images = [(i, {**a, EMBEDDINGS: a[EMBEDDINGS].reshape(-1, width)}) for i, a in images]
    try:
        write_shard(folder, number, images)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        need = sum(values.nbytes for _, arrays in images for values in arrays.values())
        raise OSError(
            error.errno,
            f"no space left for shard {number} ({need / 2**20:.1f} MiB) in {folder}; the shards before it are whole. "
            f"Make room, then {REPAIR}",
        ) from error


def _arrays(given: dict[str, Any], rows: Array) -> Arrays:
    return {BOXES: given[BOXES], SCORES: given[SCORES], EMBEDDINGS: rows.astype(np.float16)}


def embedding_width(teacher: CropTeacher) -> int:
    """Find the width of a teacher's embeddings, by asking it.

    Args:
        teacher: the teacher.

    Returns:
        Number of values of an embedding.
    """
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    return teacher([image], [torch.tensor([[0.0, 0.0, 8.0, 8.0]])])[0].shape[1]


def _facts(teacher: CropTeacher, job: EmbeddingJob, stored: ProposalFolder, records: Any) -> dict[str, Any]:
    manifest = (stored.folder / MANIFEST).read_bytes()
    chosen = job.selection
    return {
        "dataset": job.dataset,
        "images_fingerprint": images_fingerprint(records),
        "proposals_fingerprint": hashlib.blake2b(manifest, digest_size=16).hexdigest(),
        "teacher": teacher.encoder.fingerprint,
        "teacher_description": job.teacher_description,
        "width": embedding_width(teacher),
        "scales": list(teacher.scales),
        "resize": teacher.settings.resize if teacher.settings else "as the teacher does",
        "dtype": str(teacher.dtype).removeprefix("torch."),
        "topk": chosen.topk,
        "score_threshold": chosen.score_threshold,
        "min_size": chosen.min_size,
        "shard_images": job.shard_images,
    }

"""Stores the proposals of a whole dataset, shard by shard, on one or several processes, going on after a kill."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import build_detection_test_loader
from detectron2.utils import comm

from mvseg.data.loader import shared_records
from mvseg.data.proposal_files import Arrays, finish_job, is_whole, start_job, write_shard
from mvseg.data.proposals import images_fingerprint
from mvseg.data.reading import ImageReadError
from mvseg.data.records import Record, load_records
from mvseg.inference.progress import Progress

logger = logging.getLogger(__name__)


class _Mapper:
    """Maps records for a test; an unreadable image is an error, since its place in the file would stay empty."""

    def __init__(self, dataset: str, mapper: Callable[[Record], Any]) -> None:
        self.dataset, self.mapper = dataset, mapper

    def __call__(self, record: Record) -> Any:
        try:
            return self.mapper(record)
        except ImageReadError as error:
            raise ImageReadError(
                f"dataset {self.dataset!r}, image {record.get('image_id')!r}: {error}. Repair it, or take it out of "
                "the annotations; what is finished is kept"
            ) from error


def store_proposals(
    propose: Callable[[Sequence[Any]], list[Arrays]],
    mapper: Callable[[Record], Any],
    dataset: str,
    output: str | Path,
    *,
    facts: dict[str, Any],
    shard_images: int = 1000,
    num_workers: int = 0,
) -> int:
    """Write the proposals of every image of a dataset; shards that are whole are kept.

    Args:
        propose: model inputs to the arrays of every image.
        mapper: record to model input.
        dataset: name of the dataset.
        output: the folder.
        facts: what else the proposals depend on, plain values.
        shard_images: images of a shard.
        num_workers: loading processes.

    Returns:
        Number of images that this process computed.

    Raises:
        ValueError: if the shards are to have no images.
    """
    if shard_images < 1:
        raise ValueError(f"a shard has at least one image, not {shard_images}")
    folder, records = Path(output), load_records(dataset)
    count = -(-len(records) // shard_images)
    job = {"dataset": dataset, "images_fingerprint": images_fingerprint(records), "shard_images": shard_images, **facts}
    if comm.is_main_process():
        start_job(folder, job)
    comm.synchronize()  # by the number of the shard, so that it does not matter how many processes there were before
    own = range(comm.get_rank(), count, comm.get_world_size())
    missing = [number for number in own if not is_whole(folder, number)]
    if len(missing) < len(own):
        logger.info("%s: %d of %d shards are already there", folder, len(own) - len(missing), len(own))
    shards = [range(n * shard_images, min((n + 1) * shard_images, len(records))) for n in missing]
    loader = build_detection_test_loader(
        shared_records(records),
        mapper=_Mapper(dataset, mapper),
        sampler=[row for rows in shards for row in rows],
        num_workers=num_workers,
    )
    batches, progress = iter(loader), Progress(sum(map(len, shards)), "images")
    for number, rows in zip(missing, shards, strict=True):
        images: list[tuple[Any, Arrays]] = []
        while len(images) < len(rows):
            batch = next(batches)
            images += zip((record["image_id"] for record in batch), propose(batch), strict=True)
            progress.step(len(batch))
        write_shard(folder, number, images)
    progress.close()
    comm.synchronize()
    if comm.is_main_process():
        finish_job(folder, count)
    comm.synchronize()
    return sum(map(len, shards))

"""The captions of a training batch as rows of numbers: one of every image, embedded, gathered from all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor

from mvseg.modeling.columns import training_kinds
from mvseg.modeling.words import word_embedder


class CaptionReader:
    """Embeds one caption of every image that has some.

    Args:
        encode: n sentences to text embeddings (n, D).
        width: D.
        gather: also give the captions of the other processes; then every process must ask in every step.
    """

    def __init__(self, encode: Callable[[Sequence[str]], Tensor], width: int, gather: bool = True) -> None:
        self.encode, self.width, self.gather = encode, width, gather

    def __call__(self, records: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Tensor]:
        """Read the captions of a batch.

        Args:
            records: inputs of the model; those whose ``supervision`` is "captions" have ``captions``, texts.
            device: where the result shall lie.

        Returns:
            ``captions``, ``own_captions`` and ``caption_images`` of :class:`mvseg.modeling.context.BatchContext`.
        """
        images = [i for i, record in enumerate(records) if _has_caption(record)]
        texts = [_draw(records[i]["captions"]) for i in images]
        # Of a validation loss, which has no gradients, the processes have different numbers of batches.
        gather = self.gather and comm.get_world_size() > 1 and torch.is_grad_enabled()
        with torch.no_grad():
            rows = self.encode(texts).to(device) if texts else torch.zeros(0, self.width, device=device)
            rows, first = gather_rows(rows) if gather else (rows, 0)
        own = first + torch.arange(len(texts), device=device)
        return {"captions": rows, "own_captions": own, "caption_images": torch.tensor(images).long().to(device)}


def _has_caption(record: Mapping[str, Any]) -> bool:
    return record.get("supervision") == "captions" and bool(record.get("captions"))


def _draw(texts: Sequence[str]) -> str:
    return texts[int(torch.randint(len(texts), (1,)))] if len(texts) > 1 else texts[0]


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Collect rows of all processes, of which each may have another number.

    Args:
        rows: (m, D) float.

    Returns:
        Rows (M, D) of all processes in their order, and the position of this process's first one.
    """
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(comm.get_world_size())]
    torch.distributed.all_gather(counts, count)
    numbers = [int(c) for c in counts]
    padded = rows.new_zeros((max(numbers), rows.shape[1]))
    padded[: len(rows)] = rows
    parts = [torch.zeros_like(padded) for _ in numbers]
    torch.distributed.all_gather(parts, padded)
    rank = comm.get_rank()
    return torch.cat([part[:number] for part, number in zip(parts, numbers, strict=True)]), sum(numbers[:rank])


def caption_reader(cfg: Any, width: int | None) -> CaptionReader | None:
    """Build the reader that a config describes.

    Args:
        cfg: the config tree; reads MODEL.CLASSIFIER.TEXT_ENCODER, MODEL.CAPTIONS.GATHER and the kinds of training.
        width: width D of the classifier's text embeddings; None for a closed set.

    Returns:
        The reader, or None if there are no captions in training, or no encoder for them.
    """
    embedder = word_embedder(cfg)
    if embedder is None or width is None or "captions" not in training_kinds(cfg):
        return None

    def encode(texts: Sequence[str]) -> Tensor:
        encoder: Any = embedder.encoder
        # Behind the cache: captions are many, and drawn anew in every step.
        return getattr(encoder, "encoder", encoder).encode(texts).float()

    return CaptionReader(encode, width, cfg.MODEL.CAPTIONS.GATHER)

"""Region features that adapt to the dataset of their image (``MODEL.DATASET_EMBEDDING``).

The idea is Detection Hub's (Meng et al. 2023, arXiv 2206.03484): an embedding of the dataset adapts the detection head,
and words in place of class numbers align its categories with those of other datasets. Its formulas are not public; this
is our own design. The embedding is made of the dataset's words, so that any vocabulary of a test has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvseg.vocabulary import LabelSpace


class DatasetModulation(nn.Module):
    """Scale and shift the features of regions, by what their image's dataset calls the things that it knows."""

    means: Tensor
    test_mean: Tensor | None

    def __init__(self, means: Tensor, feature_sizes: Sequence[int], width: int = 256) -> None:
        """Build the modulation; it begins as the identity.

        Args:
            means: (K + 1, D) float mean text embedding of each of the K datasets, and of all label columns.
            feature_sizes: length of the region features of every stage.
            width: length of the embedding of a dataset.

        Raises:
            ValueError: if the width is not positive.
        """
        super().__init__()
        if width < 1:
            raise ValueError(f"MODEL.DATASET_EMBEDDING.WIDTH must be at least 1, not {width}")
        self.embed = nn.Sequential(nn.Linear(means.shape[1], width), nn.ReLU(), nn.Linear(width, width))
        self.scale = nn.ModuleList(nn.Linear(width, size) for size in feature_sizes)
        self.shift = nn.ModuleList(nn.Linear(width, size) for size in feature_sizes)
        for layer in (*self.scale, *self.shift):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("means", means.detach().float(), persistent=False)  # they belong to the words
        self.register_buffer("test_mean", None, persistent=False)
        self._vocabularies: Tensor | None = None

    def set_test_words(self, embeddings: Tensor | None) -> None:
        """Choose the words of the evaluation mode.

        Args:
            embeddings: (m, D) float text embeddings; None: the label columns of training, all of them.

        Source: our own derivation.
        """
        self.test_mean = None if embeddings is None else mean_of_words(embeddings).to(self.means.device)

    def begin(self, vocabularies: Tensor | None) -> None:
        """Begin a training step.

        Args:
            vocabularies: (I,) int64 dataset of every image, row of ``means``; None: all label columns.
        """
        self._vocabularies = vocabularies

    def forward(self, features: Tensor, counts: Sequence[int], stage: int = 0) -> Tensor:
        """Adapt features.

        Args:
            features: (R, F) float region features, image by image.
            counts: regions of each of the I images, R together.
            stage: whose features they are.

        Returns:
            (R, F) float x * (1 + scale) + shift, of the same type.

        Source: our own derivation, after Detection Hub (arXiv 2206.03484), whose formulas are not public.
        """
        with torch.autocast(features.device.type, enabled=False):
            datasets = self.embed(self._means_of(len(counts)))  # (I or 1, width)
            scale, shift = self.scale[stage](datasets), self.shift[stage](datasets)
        if len(datasets) > 1:
            repeats = torch.as_tensor(counts, device=features.device)
            scale, shift = (v.repeat_interleave(repeats, 0, output_size=len(features)) for v in (scale, shift))
        return features * (1 + scale).to(features.dtype) + shift.to(features.dtype)

    def _means_of(self, images: int) -> Tensor:
        """Mean embedding (I, D) of the words of every image, or (1, D) where they are the same for all."""
        if not self.training:
            return (self.means[-1] if self.test_mean is None else self.test_mean)[None]
        if self._vocabularies is None:
            return self.means[-1:]
        if len(self._vocabularies) != images:
            raise ValueError(f"regions of {images} images, but datasets of {len(self._vocabularies)}")
        return self.means[self._vocabularies]


def mean_of_words(embeddings: Tensor) -> Tensor:
    """Average text embeddings.

    Args:
        embeddings: (m, D) float.

    Returns:
        (D,) float32 mean of the embeddings, each brought to length 1 before; the order of the words does not matter.

    Source: our own derivation.
    """
    return F.normalize(embeddings.detach().float(), dim=1).mean(0)


def dataset_modulation(cfg: Any, space: LabelSpace | None, feature_sizes: Sequence[int]) -> DatasetModulation | None:
    """Build the modulation that a config describes.

    Args:
        cfg: the config tree; reads ``MODEL.DATASET_EMBEDDING`` and ``MODEL.CLASSIFIER``.
        space: the label columns of training, with text embeddings.
        feature_sizes: length of the region features of every stage.

    Returns:
        The modulation, or None if it is not enabled.

    Raises:
        ValueError: if the classifier uses no fixed text embeddings.
    """
    if not cfg.MODEL.DATASET_EMBEDDING.ENABLED:
        return None
    node = cfg.MODEL.CLASSIFIER
    if node.NAME != "text" or node.CONTEXT_LENGTH or space is None or space.embeddings is None:
        raise ValueError(
            "MODEL.DATASET_EMBEDDING makes the embedding of a dataset from the text embeddings of its words: set "
            "MODEL.CLASSIFIER.NAME text, CONTEXT_LENGTH 0, and DATASETS.TRAIN to datasets whose words have embeddings"
        )
    rows = [space.embeddings[space.columns(name).unique()] for name in space.datasets]
    means = torch.stack([mean_of_words(r) for r in (*rows, space.embeddings)])
    return DatasetModulation(means, feature_sizes, cfg.MODEL.DATASET_EMBEDDING.WIDTH)

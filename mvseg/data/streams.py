"""The order of the images inside one dataset: shuffled, by repeat factors, or by classes in turn.

Every order is a pure function of (seed, dataset, epoch), so a position in it is two numbers, and a run resumes at any
image without replaying the ones before it.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mvseg.data.columns import ColumnRecords
from mvseg.data.supervision import classes_of

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassCounts:
    """Which classes occur in which image of a dataset and how often: one row per (image, class) pair that occurs.

    Args:
        images: image index of each pair, ascending, shape ``(P,)``, int64.
        classes: class index of each pair in the dataset's own vocabulary, shape ``(P,)``, int64.
        instances: objects of that class in that image, shape ``(P,)``, int64.
        num_images: number of images of the dataset.
        num_classes: number of classes of its vocabulary.
    """

    images: IntArray
    classes: IntArray
    instances: IntArray
    num_images: int
    num_classes: int

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]], num_classes: int = 0) -> ClassCounts:
        """Count the annotated objects, tags and segments of records; crowd annotations do not count.

        Args:
            records: dataset records whose classes are those of the own vocabulary.
            num_classes: size of the vocabulary; a larger class index in the records enlarges it.

        Returns:
            The counts.
        """
        if isinstance(records, ColumnRecords):
            rows, columns = records.class_pairs()
            num_classes = max(num_classes, int(columns.max(initial=-1)) + 1)
            return cls(rows, columns, np.broadcast_to(np.int64(1), len(rows)), len(records), num_classes)
        images: list[int] = []
        classes: list[int] = []
        for index, record in enumerate(records):
            found = classes_of(record)
            images += [index] * len(found)
            classes += found
        num_classes = max(num_classes, max(classes, default=-1) + 1)
        pairs = np.asarray(images, dtype=np.int64) * max(num_classes, 1) + np.asarray(classes, dtype=np.int64)
        pairs, instances = np.unique(pairs, return_counts=True)
        rows, columns = np.divmod(pairs, max(num_classes, 1))
        return cls(rows, columns, instances.astype(np.int64), len(records), num_classes)

    def image_count(self) -> IntArray:
        """Count the images in which each class occurs.

        Returns:
            Counts of shape ``(num_classes,)``, int64.
        """
        return np.bincount(self.classes, minlength=self.num_classes)

    def instance_count(self) -> IntArray:
        """Count the objects of each class.

        Returns:
            Counts of shape ``(num_classes,)``, int64.
        """
        counts = np.zeros(self.num_classes, dtype=np.int64)
        np.add.at(counts, self.classes, self.instances)
        return counts


def repeat_factors(counts: ClassCounts, threshold: float, sqrt: bool = True) -> FloatArray:
    """Compute how often each image is to be drawn per epoch so that rare classes are seen more often.

    A class that occurs in the share f of the images gets r = max(1, sqrt(threshold / f)); an image gets the largest
    factor of its classes, and 1 if it has none.

    Args:
        counts: class counts of the dataset.
        threshold: share of images below which a class is repeated, for example 0.001 on LVIS.
        sqrt: False leaves the square root out.

    Returns:
        Factors of shape ``(num_images,)``, float64, each at least 1.

    Source:
        Gupta et al. 2019, LVIS (arXiv 1908.03195), appendix, "repeat factor sampling".
    """
    share = counts.image_count() / max(counts.num_images, 1)
    ratio = np.divide(threshold, share, out=np.ones_like(share), where=share > 0)
    factor = np.maximum(1.0, np.sqrt(ratio) if sqrt else ratio)
    result = np.ones(counts.num_images)
    np.maximum.at(result, counts.images, factor[counts.classes])
    return result


class ImageStream(ABC):
    """An endless sequence of image indices of one dataset, cut into epochs that can be computed in any order.

    Args:
        name: dataset name; it separates the random numbers of this stream from those of the other datasets.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # The name and not the place in the mixture: adding a dataset leaves the order inside the others alone.
        self._key = zlib.crc32(name.encode())

    def _random(self, seed: int, *parts: int) -> np.random.Generator:
        return np.random.default_rng([seed, self._key, *parts])

    @abstractmethod
    def epoch(self, seed: int, number: int) -> IntArray:
        """Compute one epoch.

        Args:
            seed: seed of the run, 0 or larger.
            number: which epoch, counted from 0.

        Returns:
            Image indices in the order of their draw, shape ``(draws,)``, int64, never empty.
        """

    @abstractmethod
    def weights(self) -> FloatArray:
        """Compute how often each image is drawn in one epoch, in expectation.

        Returns:
            Weights of shape ``(num_images,)``, float64; their sum is the expected length of an epoch.
        """


class ShuffledStream(ImageStream):
    """Every image once per epoch, shuffled.

    Args:
        name: dataset name.
        num_images: number of images, at least 1.
    """

    def __init__(self, name: str, num_images: int) -> None:
        super().__init__(name)
        self.num_images = num_images

    def epoch(self, seed: int, number: int) -> IntArray:
        """Compute one epoch: a permutation of all images.

        Args:
            seed: seed of the run.
            number: which epoch, counted from 0.

        Returns:
            Image indices, shape ``(num_images,)``, int64.
        """
        return self._random(seed, number).permutation(self.num_images)

    def weights(self) -> FloatArray:
        """Compute the expected draws per epoch: one for every image.

        Returns:
            Ones of shape ``(num_images,)``, float64.
        """
        return np.ones(self.num_images)


class RepeatFactorStream(ImageStream):
    """Every image as often as its repeat factor says, rounded at random up or down anew in every epoch, shuffled.

    Args:
        name: dataset name.
        factors: repeat factors, shape ``(num_images,)``, float64, from :func:`repeat_factors`.
    """

    def __init__(self, name: str, factors: FloatArray) -> None:
        super().__init__(name)
        self.factors = factors

    def epoch(self, seed: int, number: int) -> IntArray:
        """Compute one epoch.

        Args:
            seed: seed of the run.
            number: which epoch, counted from 0.

        Returns:
            Image indices with repetitions, shape ``(draws,)``, int64.
        """
        random = self._random(seed, number)
        times = np.floor(self.factors + random.random(len(self.factors))).astype(np.int64)
        return random.permutation(np.repeat(np.arange(len(self.factors)), times))

    def weights(self) -> FloatArray:
        """Compute the expected draws per epoch: the repeat factors.

        Returns:
            Weights of shape ``(num_images,)``, float64.
        """
        return self.factors


class ClassAwareStream(ImageStream):
    """One image for every class per epoch, classes in random order; a class walks through its images shuffled.

    Images without an annotated object are never drawn, nor are classes without an image.

    Args:
        name: dataset name.
        counts: class counts of the dataset.

    Raises:
        ValueError: if no image of the dataset has an annotated object.

    Source:
        Shen, Lin and Huang 2016, Relay Backpropagation (arXiv 1512.05830), "class-aware sampling".
    """

    def __init__(self, name: str, counts: ClassCounts) -> None:
        super().__init__(name)
        if len(counts.images) == 0:
            raise ValueError(f"dataset {name!r}: sampler class_aware needs annotated objects, and there is none")
        order = np.argsort(counts.classes, kind="stable")
        per_class = counts.image_count()
        self.classes = np.flatnonzero(per_class)
        self._images = np.split(counts.images[order], np.cumsum(per_class[self.classes])[:-1])
        self._num_images = counts.num_images
        self._shuffled: dict[int, tuple[tuple[int, int], IntArray]] = {}

    def epoch(self, seed: int, number: int) -> IntArray:
        """Compute one epoch: as many draws as there are classes with images.

        Args:
            seed: seed of the run.
            number: which epoch, counted from 0.

        Returns:
            Image indices, shape ``(classes,)``, int64.
        """
        turn = self._random(seed, 0, number).permutation(len(self.classes))
        return np.fromiter((self._image(seed, place, number) for place in turn), dtype=np.int64, count=len(turn))

    def _image(self, seed: int, place: int, number: int) -> int:
        images = self._images[place]
        lap, position = divmod(number, len(images))
        key, shuffled = self._shuffled.get(place, ((-1, -1), images))
        if key != (seed, lap):
            shuffled = self._random(seed, 1, int(self.classes[place]), lap).permutation(images)
            self._shuffled[place] = ((seed, lap), shuffled)
        return int(shuffled[position])

    def weights(self) -> FloatArray:
        """Compute the expected draws per epoch: the sum over an image's classes of 1 / images of the class.

        Returns:
            Weights of shape ``(num_images,)``, float64.
        """
        result = np.zeros(self._num_images)
        for images in self._images:
            result[images] += 1.0 / len(images)
        return result

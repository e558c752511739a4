"""What a training mixture will draw, told before training: images per dataset and effective class frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mvseg.data.streams import ClassCounts, FloatArray, ImageStream


@dataclass(frozen=True)
class DatasetForecast:
    """The expected draws of one dataset in one epoch of the mixture.

    Args:
        name: dataset name.
        images: images that can be drawn.
        left_out: images left out because nothing is annotated in them.
        share: share of the drawn images that comes from this dataset.
        images_per_epoch: expected draws per epoch of the mixture.
        own_epochs: how often its own order is walked through in one epoch of the mixture.
        distinct_never: images that its sampler never draws.
        class_names: names of its vocabulary, one per class.
        class_images: expected drawn images that hold each class, per epoch, shape ``(classes,)``, float64.
        class_instances: expected drawn objects of each class, per epoch, shape ``(classes,)``, float64.
        unseen_classes: names of the classes without an annotated object.
    """

    name: str
    images: int
    left_out: int
    share: float
    images_per_epoch: float
    own_epochs: float
    distinct_never: int
    class_names: tuple[str, ...]
    class_images: FloatArray
    class_instances: FloatArray
    unseen_classes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class MixtureReport:
    """The forecast of the whole mixture; one epoch draws as many images as all its datasets hold together.

    Args:
        datasets: one forecast per dataset.
        epoch_images: images drawn per epoch.
        images_per_step: images per optimizer step in expectation, over all processes.
        grouping: "mixed" or "dataset".
    """

    datasets: tuple[DatasetForecast, ...]
    epoch_images: int
    images_per_step: float
    grouping: str

    def table(self, max_classes: int = 12) -> str:
        """Write the report as text.

        Args:
            max_classes: classes listed per dataset; of more, the most and the least frequent ones are.

        Returns:
            Several lines: a table of the datasets, then one of the classes of each dataset.
        """
        steps = self.epoch_images / self.images_per_step
        head = (
            f"Training mixture, per epoch of {self.epoch_images} drawn images "
            f"({steps:.1f} steps of {self.images_per_step:.1f} images, grouping {self.grouping}):"
        )
        rows = [["dataset", "images", "left out", "share", "drawn images", "own epochs", "never drawn"]]
        for d in self.datasets:
            rows.append(
                [
                    d.name,
                    str(d.images),
                    str(d.left_out),
                    f"{d.share:.1%}",
                    f"{d.images_per_epoch:.1f}",
                    f"{d.own_epochs:.2f}",
                    str(d.distinct_never),
                ]
            )
        return "\n".join([head, *_columns(rows), *(line for d in self.datasets for line in _classes(d, max_classes))])


def _sums(counts: ClassCounts, values: FloatArray) -> FloatArray:
    return np.bincount(counts.classes, values, minlength=counts.num_classes).astype(np.float64)


def _classes(dataset: DatasetForecast, max_classes: int) -> list[str]:
    if not dataset.class_names:  # sentences have none, and label maps are not opened to count them
        return []
    order = np.argsort(-dataset.class_images, kind="stable")
    order = order[[dataset.class_names[i] not in dataset.unseen_classes for i in order]] if len(order) else order
    lines = [f"Classes of {dataset.name}: expected drawn images and objects per epoch"]
    shown = list(order)
    if len(shown) > max_classes:
        shown = [*order[: max_classes - max_classes // 2], *order[len(order) - max_classes // 2 :]]
        lines[0] += f" (the most and the least frequent of {len(order)})"
    rows = [["class", "images", "objects"]]
    for index in shown:
        rows.append(
            [
                dataset.class_names[index],
                f"{dataset.class_images[index]:.1f}",
                f"{dataset.class_instances[index]:.1f}",
            ]
        )
    lines += _columns(rows)
    if dataset.unseen_classes:
        names = ", ".join(dataset.unseen_classes[:max_classes])
        more = len(dataset.unseen_classes) - max_classes
        lines.append(
            f"  {len(dataset.unseen_classes)} classes without an annotated object: {names}"
            + (f" and {more} more" if more > 0 else "")
        )
    return lines


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    ]


def forecast(
    streams: Sequence[ImageStream],
    counts: Sequence[ClassCounts],
    class_names: Sequence[Sequence[str]],
    *,
    shares: Sequence[float],
    batch_sizes: Sequence[int],
    left_out: Sequence[int],
    grouping: str,
) -> MixtureReport:
    """Compute what a mixture will draw; every argument but the grouping has one item per dataset.

    Args:
        streams: order inside each dataset.
        counts: class counts of each dataset.
        class_names: names of each vocabulary.
        shares: share of the drawn images.
        batch_sizes: images per step.
        left_out: images left out beforehand.
        grouping: "mixed" or "dataset".

    Returns:
        The report.
    """
    epoch_images = sum(c.num_images for c in counts)
    batch_shares = np.asarray(shares) / np.asarray(batch_sizes)
    datasets = []
    for index, (stream, count) in enumerate(zip(streams, counts, strict=True)):
        weights = stream.weights()
        drawn = epoch_images * shares[index]
        per_pair = (weights * drawn / weights.sum())[count.images]
        names = list(class_names[index])
        names += [f"class {i}" for i in range(len(names), count.num_classes)]
        unseen = np.flatnonzero(count.image_count() == 0)
        datasets.append(
            DatasetForecast(
                name=stream.name,
                images=count.num_images,
                left_out=left_out[index],
                share=float(shares[index]),
                images_per_epoch=float(drawn),
                own_epochs=float(drawn / weights.sum()),
                distinct_never=int((weights == 0).sum()),
                class_names=tuple(names),
                class_images=_sums(count, per_pair),
                class_instances=_sums(count, per_pair * count.instances),
                unseen_classes=tuple(names[i] for i in unseen),
            )
        )
    return MixtureReport(tuple(datasets), epoch_images, float(1.0 / batch_shares.sum()), grouping)

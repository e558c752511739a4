"""Maps of instances: a folder of PNGs whose pixel values are label and number of the object (Cityscapes, Mapillary)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard
from ..checks import LoadReport, complain
from ..label_maps import LabelMapError, read_index_map
from ..reading import ImageReadError
from ..supervision import has_masks
from ..threads import in_threads
from .base import (
    FILTERED,
    IGNORED,
    LoadedDataset,
    check_folder,
    check_images,
    class_indices,
    count_images,
    new_record,
    register_format,
)
from .image_paths import read_flag
from .images import image_sizes
from .label_lists import label_words, read_labels
from .semantic import pair_images

_THREADS = 8


@dataclass(frozen=True)
class Region:
    """The pixels of one value of a map.

    Args:
        value: the pixel value.
        box: (x, y, width, height), tight around the pixels.
        rle: compressed run lengths of the mask, ``{size: [H, W], counts}``.
    """

    value: int
    box: tuple[int, int, int, int]
    rle: dict[str, Any]


@register_format(
    "instance_maps",
    supervision=("boxes", "masks"),
    files={"labels": "list of the labels, JSON as Mapillary Vistas has it; left out: labels are ids of the vocabulary"},
    options={
        "divisor": "pixel value // divisor is the label, the rest the number of the object",
        "groups": "values below the divisor are labels without a number: groups of objects, crowd (true or false)",
        "image_suffix": "end of the images' names that the maps do not have, such as _leftImg8bit",
        "label_suffix": "end of the maps' names that the images do not have, such as _gtFine_instanceIds",
    },
)
def load_instance_maps(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read a folder of instance maps; every map is read.

    Args:
        card: the dataset's card; ``annotations`` is the folder of the maps, with the same subfolders as the images.
        vocabulary: the dataset's words; their ids are the labels, or with ``files.labels`` they are found by name or
            key there. None: the labels of that file that have instances.

    Returns:
        Records with boxes and run-length masks, image ids 1..n in the order of the file names.

    Raises:
        FileNotFoundError: if a folder or the image of a map does not exist.
        ValueError: if there is no vocabulary, an option is wrong, or a map cannot be read or does not fit its image.
    """
    divisor, groups = card.options.get("divisor"), read_flag(card, "groups")
    if isinstance(divisor, bool) or not isinstance(divisor, int) or divisor < 2:
        raise ValueError(f"{card.where}: options.divisor must be a whole number from 2 on (1000, 256), not {divisor!r}")
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    folder = check_folder(card, card.resolve(card.annotations), "folder of instance maps")
    report = LoadReport(card.name)
    vocabulary, classes = _classes(card, vocabulary, report)
    pairs = pair_images(card, root, folder, report)
    sizes = image_sizes(card, [image for image, _ in pairs])
    records, files = [], []
    for number, ((image, map_file), size) in enumerate(zip(pairs, sizes, strict=True), start=1):
        if size is not None:
            records.append(new_record(card, image, *size, number))
            files.append(str(map_file))

    def one(place: int) -> list[Region] | Exception:
        try:
            return regions_of(read_index_map(records[place], files[place]), list(classes), divisor, groups)
        except (ImageReadError, LabelMapError) as error:
            return error

    masks = has_masks(card.supervision)
    for record, found in zip(records, in_threads(one, range(len(records)), _THREADS), strict=True):
        if isinstance(found, Exception):
            complain(f"{card.where}: {found}", "unreadable", type(found))
            continue
        _add_regions(record, found, classes, divisor, groups, masks, report)
    check_images(card, records)
    count_images(records, report)
    return LoadedDataset(records, vocabulary, report)


def regions_of(pixels: npt.NDArray[Any], labels: list[int], divisor: int, groups: bool) -> list[Region]:
    """Find the regions of a map, all in one pass over its runs.

    Args:
        pixels: pixel values, (H, W), integers of any size.
        labels: labels whose regions are wanted.
        divisor: see the format's options.
        groups: see the format's options.

    Returns:
        The regions, by rising value.
    """
    height, width = pixels.shape
    columns = np.ascontiguousarray(pixels.T).reshape(-1)  # run lengths go down the columns
    starts = np.flatnonzero(np.concatenate([[True], columns[1:] != columns[:-1]]))
    ends = np.append(starts[1:], columns.size)
    values = columns[starts].astype(np.int64)
    label = _label(values, divisor, groups)
    wanted = np.flatnonzero(np.isin(label, labels))
    wanted = wanted[np.argsort(values[wanted], kind="stable")]
    cuts = np.flatnonzero(np.diff(values[wanted], prepend=-1))
    found = []
    for runs in np.split(wanted, cuts[1:]) if len(wanted) else []:
        first, last = starts[runs], ends[runs] - 1
        left, right = int(first[0]) // height, int(last[-1]) // height
        over = bool((first // height != last // height).any())  # a run around the end of a column has all rows' ends
        top, bottom = (0, height - 1) if over else (int((first % height).min()), int((last % height).max()))
        rle = _run_lengths(first, last + 1, height, width)
        box = (left, top, right - left + 1, bottom - top + 1)
        found.append(Region(int(values[runs[0]]), box, rle))
    return found


def _run_lengths(first: npt.NDArray[Any], end: npt.NDArray[Any], height: int, width: int) -> dict[str, Any]:
    edges = np.stack([first, end], axis=1).reshape(-1)
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    return dict(mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def _label(values: npt.NDArray[Any], divisor: int, groups: bool) -> npt.NDArray[Any]:
    return np.where(values < divisor, values, values // divisor) if groups else values // divisor


def _classes(card: DatasetCard, vocabulary: Vocabulary | None, report: LoadReport) -> tuple[Vocabulary, dict[int, int]]:
    """The words, and label -> class index, IGNORED or FILTERED, of all labels whose objects are told apart."""
    path = card.file("labels")
    if path is None:
        if vocabulary is None:
            raise ValueError(f"{card.where}: maps do not name their labels; say vocabulary:, or labels: under files")
        names = dict(zip(vocabulary.ids, vocabulary.names, strict=True))
    else:
        labels = read_labels(card, path)
        vocabulary = vocabulary or label_words(card, labels, instances=True)
        keys = set(vocabulary.keys or ()) | {*card.ignore, *card.aliases}
        names = {x.value: x.key if x.key in keys else x.word for x in labels if x.instances}
    examples = {name: f"label {value}" for value, name in names.items()}
    where = str(path) if path else f"vocabulary {vocabulary.name!r}"
    found = class_indices(card, list(names.values()), vocabulary, examples, where, report)
    return vocabulary, {value: found[name] for value, name in names.items()}


def _add_regions(
    record: dict[str, Any],
    regions: list[Region],
    classes: Mapping[int, int],
    divisor: int,
    groups: bool,
    masks: bool,
    report: LoadReport,
) -> None:
    for region in regions:
        group = groups and region.value < divisor
        index = classes[region.value if group else region.value // divisor]
        if index in (IGNORED, FILTERED):
            report.add("ignored" if index == IGNORED else "filtered")
            continue
        annotation = {
            "bbox": [float(side) for side in region.box],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": index,
            "iscrowd": int(group),
        }
        if masks:
            annotation["segmentation"] = region.rle
        record["annotations"].append(annotation)
        report.add("instances")
        report.add("crowd", annotation["iscrowd"])

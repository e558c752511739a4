"""The training mixture: which dataset and which image come next, as a deterministic and resumable batch sampler.

``ratio`` is the share of drawn IMAGES: entries with ratios 1 and 4 see images in proportion 1:4, whatever their sizes,
samplers and batch sizes. The choice of the dataset is random but keeps account: at any step no dataset has got more
than one draw above its exact share.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from detectron2.config import CfgNode
from torch.utils.data import Sampler

from mvseg.data.augmentation import RECIPES
from mvseg.data.streams import ImageStream
from mvseg.vocabulary.scopes import scope_names
from mvseg.vocabulary.suggestions import did_you_mean

SAMPLERS = ("uniform", "repeat_factor", "class_aware")
GROUPINGS = ("mixed", "dataset")
# Detectron2's names of samplers (DATALOADER.SAMPLER_TRAIN), which hold where DATASETS.MIX is empty.
DETECTRON2_SAMPLERS = {"TrainingSampler": "uniform", "RepeatFactorTrainingSampler": "repeat_factor"}


@dataclass(frozen=True)
class MixEntry:
    """One dataset of the training mixture, as ``DATASETS.MIX`` lists it.

    Args:
        name: dataset name in the catalog.
        ratio: share of drawn images relative to the other entries' ratios; None for all entries: as many as each has.
        sampler: order inside the dataset: "uniform", "repeat_factor" or "class_aware".
        image_size: side in pixels of its augmentation recipe, or (from, to) for a range of the short side; None: INPUT.
        batch_size: images per step over all processes, with DATALOADER.GROUPING "dataset"; None: SOLVER.IMS_PER_BATCH.
        augmentation: recipe name; None: INPUT.AUGMENTATION.
        loss_weight: factor on all losses of its images.
        repeat_threshold: share of images below which repeat_factor repeats a class; None: DATALOADER.REPEAT_THRESHOLD.
        scale_range: random scale of the crop recipes relative to ``image_size``; None: INPUT.SCALE_RANGE.
        annotation_scope: what its annotation speaks about; None: MODEL.ANNOTATION_SCOPE.
        proposals: folder of stored proposals (python -m mvseg.inference.proposals); None: that of its card.
        pseudo_boxes: file of boxes of classes that it does not annotate (python -m mvseg.inference.pseudo_boxes).
        crop_embeddings: folder of a teacher's embeddings of crops (python -m mvseg.distill embed); None: that of its
            card.

    Raises:
        ValueError: if a value is out of its range or a sampler or recipe does not exist.
    """

    name: str
    ratio: float | None = 1.0
    sampler: str = "uniform"
    image_size: int | tuple[int, int] | None = None
    batch_size: int | None = None
    augmentation: str | None = None
    loss_weight: float = 1.0
    repeat_threshold: float | None = None
    scale_range: tuple[float, float] | None = None
    annotation_scope: str | None = None
    proposals: str | None = None
    pseudo_boxes: str | None = None
    crop_embeddings: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"DATASETS.MIX: every entry needs the name of a dataset, got {self.name!r}")
        self._check_number("ratio", optional=True, above=0.0)
        self._check_number("loss_weight", least=0.0)
        self._check_number("batch_size", optional=True, least=1, whole=True)
        self._check_number("repeat_threshold", optional=True, above=0.0)
        if self.annotation_scope is not None:
            scope_names(self.annotation_scope, self._where("annotation_scope"))
        for field, count in (("image_size", (1, 2)), ("scale_range", (2,))):
            self._check_range(field, count, whole=field == "image_size")
        for field, known in (("sampler", SAMPLERS), ("augmentation", tuple(RECIPES))):
            value = getattr(self, field)
            if value not in known and not (field == "augmentation" and value is None):
                raise ValueError(f"{self._where(field)} {value!r} does not exist{did_you_mean(str(value), known)}")

    def _where(self, field: str) -> str:
        return f"DATASETS.MIX, dataset {self.name!r}: {field}"

    def _check_number(
        self,
        field: str,
        optional: bool = False,
        above: float | None = None,
        least: float | None = None,
        whole: bool = False,
    ) -> None:
        value = getattr(self, field)
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not np.isfinite(value):
            raise ValueError(f"{self._where(field)} must be a{' whole' if whole else ''} number, got {value!r}")
        if above is not None and not value > above:
            raise ValueError(f"{self._where(field)} must be larger than {above:g}, got {value!r}")
        if least is not None and not value >= least:
            raise ValueError(f"{self._where(field)} must be at least {least:g}, got {value!r}")

    def _check_range(self, field: str, counts: tuple[int, ...], whole: bool) -> None:
        value = getattr(self, field)
        if value is None:
            return
        values = value if isinstance(value, tuple) else (value,)
        kind = int if whole else (int, float)
        fits = len(values) in counts and all(isinstance(v, kind) and not isinstance(v, bool) and v > 0 for v in values)
        if not fits or values[0] > values[-1]:
            shape = "a whole number or a pair (from, to)" if 1 in counts else "a pair (from, to)"
            raise ValueError(f"{self._where(field)} must be {shape} above 0, got {value!r}")

    @classmethod
    def from_dict(cls, struct: Mapping[str, Any]) -> MixEntry:
        """Build an entry from a struct of the YAML file.

        Args:
            struct: field names and values; lists become tuples.

        Returns:
            The validated entry.

        Raises:
            ValueError: if the struct is no mapping, has no name, an unknown field, or a bad value.
        """
        if not isinstance(struct, Mapping):
            raise ValueError(f"DATASETS.MIX: an entry is a mapping like {{name: coco_2017_train}}, got {struct!r}")
        if "name" not in struct:
            raise ValueError(f"DATASETS.MIX: the entry {dict(struct)!r} has no name")
        known = [field.name for field in dataclasses.fields(cls)]
        for key in struct:
            if key not in known:
                raise ValueError(
                    f"DATASETS.MIX, dataset {struct['name']!r}: unknown field {key!r}"
                    f"{did_you_mean(str(key), known, show_all=20)}"
                )
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in struct.items()}
        return cls(**fields)


def mixture_from_config(cfg: CfgNode) -> tuple[MixEntry, ...]:
    """Read the training mixture: ``DATASETS.MIX``, or ``DATASETS.TRAIN`` with every dataset in proportion to its size.

    Args:
        cfg: the config.

    Returns:
        The entries; ``ratio`` is None in all of them if they come from ``DATASETS.TRAIN``.

    Raises:
        ValueError: if there is no training dataset, one is named twice, an entry is wrong, or some ratios are null.
    """
    if cfg.DATASETS.MIX:
        entries = tuple(MixEntry.from_dict(struct) for struct in cfg.DATASETS.MIX)
    else:
        sampler = cfg.DATALOADER.SAMPLER_TRAIN
        if sampler not in DETECTRON2_SAMPLERS:
            raise ValueError(
                f"DATALOADER.SAMPLER_TRAIN {sampler!r} does not exist{did_you_mean(sampler, DETECTRON2_SAMPLERS)}"
            )
        entries = tuple(MixEntry(name, ratio=None, sampler=DETECTRON2_SAMPLERS[sampler]) for name in cfg.DATASETS.TRAIN)
    names = [entry.name for entry in entries]
    if not names:
        raise ValueError("there is no training dataset: set DATASETS.MIX or DATASETS.TRAIN")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the training mixture names {', '.join(twice)} more than once: give each dataset one entry")
    open_ratios = [entry.name for entry in entries if entry.ratio is None]
    if open_ratios and len(open_ratios) < len(entries):
        raise ValueError(f"DATASETS.MIX: give every entry a ratio or none; {', '.join(open_ratios)} has none")
    return entries


def image_shares(entries: Sequence[MixEntry], sizes: Sequence[float]) -> tuple[float, ...]:
    """Turn the ratios into shares of the drawn images.

    Args:
        entries: the mixture.
        sizes: expected images per epoch of each dataset's own order; they count where the ratios are None.

    Returns:
        Shares that add up to 1.
    """
    ratios = [size if entry.ratio is None else float(entry.ratio) for entry, size in zip(entries, sizes, strict=True)]
    return tuple(ratio / sum(ratios) for ratio in ratios)


class Draw(NamedTuple):
    """One image to load: index of its dataset in the mixture, index of its record there, seed of its augmentation."""

    dataset: int
    record: int
    seed: int


def mix_bits(*values: int) -> int:
    """Hash whole numbers into one, equal on every machine.

    Args:
        *values: the numbers.

    Returns:
        A number from 0 to 2^63 - 1.

    Source:
        Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators, section 6 (SplitMix64 finalizer).
    """
    mask = (1 << 64) - 1
    state = 0
    for value in values:
        state = (state ^ (value & mask)) + 0x9E3779B97F4A7C15 & mask
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ state >> 27) * 0x94D049BB133111EB & mask
        state ^= state >> 31
    return state >> 1


class MixtureSampler(Sampler[list[Draw]]):
    """Endless batches of the mixture; each process gets its slice of the same global batch.

    Global batches do not depend on the number of processes or workers: two processes with four images each see in
    every step what one process with eight sees.

    Args:
        streams: the order inside each dataset.
        shares: share of the drawn images per dataset, adding up to 1.
        batch_sizes: images per global batch and dataset; all equal with grouping "mixed".
        grouping: "mixed": a batch may hold images of several datasets; "dataset": of one.
        landscape: per dataset whether each image is wider than high, bool arrays of shape ``(num_images,)``;
            given, every batch holds images of one orientation. None: no such grouping.
        seed: seed of the run, 0 or larger.
        rank: index of this process.
        world_size: number of processes.

    Raises:
        ValueError: if the grouping does not exist, or batch sizes do not fit the grouping or the number of processes.
    """

    VERSION = 1

    def __init__(
        self,
        streams: Sequence[ImageStream],
        *,
        shares: Sequence[float],
        batch_sizes: Sequence[int],
        grouping: str = "mixed",
        landscape: Sequence[npt.NDArray[np.bool_]] | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if grouping not in GROUPINGS:
            raise ValueError(f"DATALOADER.GROUPING {grouping!r} does not exist{did_you_mean(grouping, GROUPINGS)}")
        if grouping == "mixed" and len(set(batch_sizes)) > 1:
            raise ValueError("a batch_size per dataset needs DATALOADER.GROUPING dataset, which is now 'mixed'")
        for stream, size in zip(streams, batch_sizes, strict=True):
            if size % world_size:
                raise ValueError(
                    f"dataset {stream.name!r}: {size} images per step do not divide among {world_size} processes; "
                    "change its batch_size or SOLVER.IMS_PER_BATCH"
                )
        self.streams = tuple(streams)
        self.grouping = grouping
        self.rank, self.world_size = rank, world_size
        self._shares = tuple(float(share) for share in shares)
        self._batch_sizes = tuple(batch_sizes)
        # Batches are drawn in the proportion that gives the wanted shares of images.
        batches = [share / size for share, size in zip(shares, batch_sizes)]
        self._batch_shares = tuple(count / sum(batches) for count in batches)
        self._landscape = landscape
        self._mixture = {
            "datasets": [stream.name for stream in self.streams],
            "orders": [type(stream).__name__ for stream in self.streams],
            "num_images": [len(stream.weights()) for stream in self.streams],
            "shares": [round(share, 9) for share in self._shares],
            "batch_sizes": list(self._batch_sizes),
            "grouping": grouping,
            "aspect_ratio_grouping": landscape is not None,
        }
        self._orders: list[tuple[int, int, npt.NDArray[np.int64]] | None] = [None] * len(streams)
        self._state: dict[str, Any] = {
            "version": self.VERSION,
            "seed": int(seed),
            "step": 0,
            "images": [0] * len(streams),
            "batches": [0] * len(streams),
            "cursors": [[0, 0] for _ in streams],
            "waiting": {},
        }

    @property
    def step(self) -> int:
        """Number of global batches made so far."""
        return self._state["step"]

    def __iter__(self) -> Iterator[list[Draw]]:
        while True:
            yield self.next_batch()

    def next_batch(self) -> list[Draw]:
        """Make the next global batch.

        Returns:
            This process's part of it.
        """
        batch = self.next_global_batch()
        part = len(batch) // self.world_size
        return batch[self.rank * part : (self.rank + 1) * part]

    def next_global_batch(self) -> list[Draw]:
        """Make the next global batch.

        Returns:
            The whole batch, in the order in which it is cut into the processes' parts.
        """
        state = self._state
        by_dataset = self.grouping == "dataset"
        chosen = self._choose(state["batches"], self._batch_shares, 0, state["step"]) if by_dataset else -1
        while True:
            total = sum(state["images"])
            dataset = chosen if by_dataset else self._choose(state["images"], self._shares, 1, total)
            draw = Draw(dataset, self._next_record(dataset), mix_bits(state["seed"], 2, total))
            state["images"][dataset] += 1
            # Images wait here until a batch of their kind is complete.
            orientation = int(self._landscape[dataset][draw.record]) if self._landscape is not None else 0
            kind = f"{chosen},{orientation}"
            waiting = state["waiting"].setdefault(kind, [])
            waiting.append(draw)
            if len(waiting) == self._batch_sizes[dataset]:
                break
        del state["waiting"][kind]
        state["step"] += 1
        if by_dataset:
            state["batches"][chosen] += 1
        return waiting

    def _choose(self, counts: list[int], shares: Sequence[float], purpose: int, number: int) -> int:
        """Choose a dataset at random among those behind their share, with the chance of each its arrears."""
        # Plain floats: for a handful of datasets numpy is ten times slower, and this runs for every image.
        total = sum(counts) + 1
        arrears = [max(share * total - count, 0.0) for share, count in zip(shares, counts)]
        point = mix_bits(self._state["seed"], purpose, number) / 2**63 * sum(arrears)
        chosen = 0
        for dataset, arrear in enumerate(arrears):
            if arrear > 0:
                chosen = dataset
                if point < arrear:
                    break
                point -= arrear
        return chosen

    def _next_record(self, dataset: int) -> int:
        cursor = self._state["cursors"][dataset]
        order = self._order(dataset, cursor[0])
        if cursor[1] >= len(order):
            cursor[:] = cursor[0] + 1, 0
            order = self._order(dataset, cursor[0])
        cursor[1] += 1
        return int(order[cursor[1] - 1])

    def _order(self, dataset: int, epoch: int) -> npt.NDArray[np.int64]:
        kept = self._orders[dataset]
        if kept is None or kept[:2] != (self._state["seed"], epoch):
            order = self.streams[dataset].epoch(self._state["seed"], epoch)
            kept = self._orders[dataset] = (self._state["seed"], epoch, order)
        return kept[2]

    def state_dict(self) -> dict[str, Any]:
        """Write down the position after the last batch made; the same in every process.

        Returns:
            Plain numbers, strings, lists and dicts.
        """
        state = {**self._state, "mixture": self._mixture}
        state["images"], state["batches"] = list(state["images"]), list(state["batches"])
        state["cursors"] = [list(cursor) for cursor in state["cursors"]]
        state["waiting"] = {kind: [list(draw) for draw in draws] for kind, draws in state["waiting"].items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a written position, also with another number of processes; the next batch follows it exactly.

        Args:
            state: from :meth:`state_dict`.

        Raises:
            ValueError: if the state is of another mixture; the message says what differs.
        """
        if state.get("version") != self.VERSION:
            raise ValueError(f"state of the data loader has version {state.get('version')!r}, not {self.VERSION}")
        theirs, ours = state["mixture"], self._mixture
        different = [f"{key} was {theirs.get(key)!r}, is {ours[key]!r}" for key in ours if theirs.get(key) != ours[key]]
        if different:
            raise ValueError(
                "the data loader cannot go on where the checkpoint stopped, because the training mixture changed: "
                f"{'; '.join(different)}. Resume with the old mixture, or start a new run from the weights "
                "(MODEL.WEIGHTS, without --resume)"
            )
        position = copy.deepcopy({key: value for key, value in state.items() if key != "mixture"})
        position["waiting"] = {kind: [Draw(*draw) for draw in draws] for kind, draws in position["waiting"].items()}
        self._state = position

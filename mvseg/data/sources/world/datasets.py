"""The datasets of the world: what each shows, under which words, and with which difficulty of real mixtures."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from .chance import Chance
from .scene import SceneSpec
from .words import rare_things, word_list

SPLITS = ("train", "val")


@dataclass(frozen=True)
class WorldDataset:
    """One dataset of the world.

    Args:
        name: its name, also that of its cards before "_train" and "_val".
        words: its list of words, see ``words.LISTS``.
        kind: how it is written, a key of the writers.
        splits: "train", "val" or both.
        models: the difficulty of real mixtures that it stands for.
        objects: least and largest number of objects of a picture.
        masks: whether objects are outlined.
        own_share: share of the objects that are things which the list names; the others are in the pictures, but
            nobody annotates them.
        style: drawing style.
    """

    name: str
    words: str
    kind: str
    splits: tuple[str, ...]
    models: str
    objects: tuple[int, int] = (3, 8)
    masks: bool = False
    own_share: float = 0.85
    style: str = "plain"

    @property
    def folder(self) -> str:
        """Folder of the dataset under that of the world.

        Returns:
            The name without "world_".
        """
        return self.name.removeprefix("world_")


DATASETS: dict[str, WorldDataset] = {
    d.name: d
    for d in (
        WorldDataset("world_coco", "common", "coco", SPLITS, "the clean base: frequent classes, complete masks",
                     masks=True),
        WorldDataset("world_lvis", "all", "lvis", SPLITS, "long tail, federated annotation, rare classes held out",
                     objects=(5, 12), masks=True, own_share=1.0),
        WorldDataset("world_o365", "objects", "coco", SPLITS, "other words, finer and coarser classes, boxes only"),
        WorldDataset("world_oid", "open", "openimages", SPLITS, "hierarchy, verified labels, groups", objects=(3, 10)),
        WorldDataset("world_tags", "all", "tags", ("train",), "image tags without boxes", objects=(1, 3),
                     own_share=1.0),
        WorldDataset("world_ade", "parse", "ade", SPLITS, "semantic maps, also of grounds"),
        WorldDataset("world_panoptic", "common", "panoptic", SPLITS, "things and grounds in one map", masks=True),
        WorldDataset("world_captions", "all", "captions", SPLITS, "sentences only", objects=(1, 6), own_share=1.0),
        WorldDataset("world_phrases", "all", "phrases", SPLITS, "expressions that point at one object",
                     objects=(3, 7), own_share=1.0),
        WorldDataset("world_sketch", "common", "coco", ("val",), "a style that is never trained on", masks=True,
                     style="sketch"),
        WorldDataset("world_new_words", "new", "coco", ("val",), "words that no training vocabulary has", masks=True),
    )
}  # fmt: skip


@dataclass(frozen=True)
class WorldSettings:
    """Options of a world.

    Args:
        images: training images of each dataset.
        val_images: validation images of each dataset.
        size: side of the pictures in pixels.
        seed: the same seed gives the same files.
    """

    images: int = 1000
    val_images: int = 200
    size: int = 256
    seed: int = 0

    def count(self, split: str) -> int:
        """Number of pictures of a split.

        Args:
            split: "train" or "val".

        Returns:
            The number.
        """
        return self.images if split == "train" else self.val_images


def picture_chance(dataset: WorldDataset, split: str, number: int, purpose: str, seed: int) -> Chance:
    """Make the source of all that is random about one picture, for one purpose.

    Args:
        dataset: the dataset.
        split: "train" or "val".
        number: 1-based number of the picture.
        purpose: such as "scene" or "annotation", so that a change of one leaves the others as they are.
        seed: seed of the world.

    Returns:
        The random numbers.
    """
    return Chance(_seed(dataset, split, number, purpose, seed))


def _seed(dataset: WorldDataset, split: str, number: int, purpose: str, seed: int) -> tuple[int, ...]:
    return (seed, zlib.crc32(f"{dataset.name} {split} {purpose}".encode()), number)


def scene_spec(dataset: WorldDataset, split: str, number: int, settings: WorldSettings) -> SceneSpec:
    """Say what is to be drawn in one picture.

    Args:
        dataset: the dataset.
        split: "train" or "val".
        number: 1-based number of the picture.
        settings: options of the world.

    Returns:
        The scene's specification.
    """
    chance = picture_chance(dataset, split, number, "content", settings.seed)
    low, high = dataset.objects
    dominant = None
    names, weights = _weights(dataset)
    if dataset.kind == "lvis":
        names, weights = _long_tail(dataset, split, number, settings)
    elif dataset.kind == "tags":  # every class gets the same number of pictures, in an order that leaves no gap
        dominant = word_list("all").names[(number - 1) % len(word_list("all").names)]
    elif dataset.kind == "phrases":  # few kinds, so that several objects of a kind have to be told apart
        names, weights = _some(names, weights, chance)
    elif dataset.kind == "openimages" and chance.share() < 0.25:  # a crowd of one kind, for boxes of groups
        names, weights = (chance.pick(list(word_list(dataset.words).index)),), (1.0,)
        low, high = 7, 12
    return SceneSpec(
        seed=_seed(dataset, split, number, "scene", settings.seed),
        size=settings.size,
        things=names,
        weights=weights,
        min_objects=low,
        max_objects=high,
        style=dataset.style,
        dominant=dominant,
    )


@functools.cache
def _weights(dataset: WorldDataset) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Give all words of a dataset the same weight, and the rest of it to the things that it has no word for."""
    words, all_things = word_list(dataset.words), word_list("all").names
    own = {thing: 1 / len(covered) for covered in words.covers for thing in covered}
    others = [thing for thing in all_things if thing not in own]
    total = sum(own.values())
    rest = total * (1 / dataset.own_share - 1) / max(1, len(others))
    return all_things, tuple(own.get(thing, rest) for thing in all_things)


def _some(names: Sequence[str], weights: Sequence[float], chance: Chance) -> tuple[tuple[str, ...], tuple[float, ...]]:
    chosen = sorted(chance.shuffled(range(len(names)))[: chance.between(2, 4)])
    return tuple(names[i] for i in chosen), tuple(weights[i] for i in chosen)


def _long_tail(
    dataset: WorldDataset, split: str, number: int, settings: WorldSettings
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Weights that fall like Zipf's law; a rare thing comes only into the few training pictures that are its own.

    Rare is a matter of the number of training images, so the number of pictures that can show a rare thing is fixed
    beforehand: whatever is drawn, it stays rare. Validation is flatter, else nothing could be measured in the tail.
    """
    names, rare = word_list("all").names, rare_things()
    if split != "train":
        return names, tuple(1 / (rank + 16) ** 0.5 for rank in range(len(names)))
    weights = [0.0 if thing in rare else 1 / (rank + 16) for rank, thing in enumerate(names)]
    total = sum(weights)
    shown = _rare_pictures(settings.images, settings.seed).get(number, ())
    for thing in shown:
        weights[names.index(thing)] = 0.3 * total
    return names, tuple(weights)


@functools.lru_cache(maxsize=4)
def _rare_pictures(images: int, seed: int) -> dict[int, tuple[str, ...]]:
    """Deal every rare thing to training pictures: from 0.9 % of them for the first to 0.3 % for the last, or 1."""
    names = [thing for thing in word_list("all").names if thing in rare_things()]
    chance = Chance((seed, zlib.crc32(b"rare"), images))
    deal: dict[int, list[str]] = {}
    for rank, thing in enumerate(names):
        share = 0.009 - 0.006 * rank / max(1, len(names) - 1)
        count = min(images, max(1, int(images * share)))
        for picture in chance.shuffled(range(1, images + 1))[:count]:
            deal.setdefault(picture, []).append(thing)
    return {picture: tuple(shown) for picture, shown in deal.items()}

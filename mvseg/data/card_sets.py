"""Files with dataset cards: one card, or a collection, a folder with many small datasets that are alike.

A collection is one YAML file; every dataset in its folder becomes a card for each of its splits, such as
``odinw_Aquarium_test``. It is looked through when the file is read; annotations are not opened.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvseg.vocabulary import did_you_mean

from .card import DatasetCard, datasets_root, make_card, read_card_file

# Where the annotations of a split lie in the folder of a dataset: Roboflow's export, and two of the ODinW archive.
ANNOTATIONS = (
    "{split}/_annotations.coco.json",
    "{split}/annotations_without_background.json",
    "{split}_annotations_without_background.json",
)
_DEPTH = 4  # folders below that of the collection in which datasets are looked for
_ODD = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class Collection:
    """What a collection file says.

    Args:
        collection: first part of the datasets' names.
        root: the folder with the datasets, absolute or relative to ``$DETECTRON2_DATASETS``.
        splits: folder names of splits, or what they are called to folder name.
        annotations: where the annotations of a split lie in the folder of a dataset, with ``{split}`` for the folder
            name of the split; the first that exists. Images lie beside them.
        datasets: names of the datasets to register, or name to folder below ``root``; None: every folder in which
            annotations are found.
        fields: fields of all cards, see :class:`mvseg.data.card.DatasetCard`.
        changes: name of a dataset to fields of its cards that differ.
        prepare: how to get the files.
        source: the file.

    Raises:
        ValueError: if a field has the wrong form.
    """

    collection: str
    root: str
    splits: list[str] | dict[str, str] = field(default_factory=lambda: ["train", "valid", "test"])
    annotations: list[str] = field(default_factory=lambda: list(ANNOTATIONS))
    datasets: list[str] | dict[str, str] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    prepare: str = ""
    source: Path | None = None

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {"collection": str, "root": str, "prepare": str, "fields": Mapping, "changes": Mapping}
        kinds |= {"splits": list | Mapping, "annotations": list, "datasets": list | Mapping | None}
        for key, kind in kinds.items():
            value = getattr(self, key)
            if not isinstance(value, kind) or (key in ("collection", "root", "splits", "annotations") and not value):
                raise ValueError(f"{self.where}: {key} has the wrong form: {value!r}")
        for split in self.splits.values() if isinstance(self.splits, Mapping) else self.splits:
            if not isinstance(split, str):
                raise ValueError(f"{self.where}: splits: {split!r} must be the name of a folder")
        for name, fields in self.changes.items():
            if not isinstance(fields, Mapping):
                raise ValueError(f"{self.where}: changes of {name!r} must be fields of its cards, not {fields!r}")
        for pattern in self.annotations:
            if not isinstance(pattern, str) or "{split}" not in pattern:
                raise ValueError(f"{self.where}: annotations: {pattern!r} needs {{split}} for the folder of the split")

    @property
    def where(self) -> str:
        """How errors call this collection.

        Returns:
            Its name and its file.
        """
        return f"collection {self.collection!r}" + (f" ({self.source})" if self.source else "")

    def cards(self) -> list[DatasetCard]:
        """Make the cards.

        Returns:
            One for each split of each dataset.

        Raises:
            FileNotFoundError: if the folder does not exist, or holds no dataset.
            ValueError: if two datasets have the same name, or one is named that does not exist.
        """
        folders = self._folders()
        for name in self.changes:
            if name not in folders:
                raise ValueError(f"{self.where}: changes names {name!r}{did_you_mean(name, folders)}")
        splits = self.splits if isinstance(self.splits, Mapping) else {split: split for split in self.splits}
        cards = []
        for name, folder in folders.items():
            places = {split: self._annotations(folder, part) for split, part in splits.items()}
            there = {split: place for split, place in places.items() if self._resolve(place).is_file()}
            for split, place in (there or places).items():
                cards.append(self._card(name, split, place))
        return cards

    def _card(self, name: str, split: str, annotations: str) -> DatasetCard:
        fields = {
            "name": f"{self.collection}_{name}_{split}",
            "format": "coco",
            "annotations": annotations,
            "image_root": os.path.dirname(annotations),
            "prepare": self.prepare,
            **self.fields,
            **self.changes.get(name, {}),
        }
        if fields["format"] == "coco":
            fields["options"] = {"drop_supercategories": True, **fields.get("options", {})}
        return make_card(fields, self.source)

    def _resolve(self, place: str) -> Path:
        return datasets_root() / place

    def _annotations(self, folder: str, split: str) -> str:
        """The annotation file of a split; where none exists, the place where the first kind would lie."""
        places = [os.path.join(folder, pattern.replace("{split}", split)) for pattern in self.annotations]
        return next((place for place in places if self._resolve(place).is_file()), places[0])

    def _folders(self) -> dict[str, str]:
        """Name to folder of every dataset, in the order of the names."""
        if isinstance(self.datasets, Mapping):
            return {str(name): os.path.join(self.root, str(folder)) for name, folder in self.datasets.items()}
        root = self._resolve(self.root)
        setting = f"DETECTRON2_DATASETS={os.environ.get('DETECTRON2_DATASETS', 'not set: ./datasets')}"
        if not root.is_dir():
            raise FileNotFoundError(f"{self.where}: folder {root} does not exist ({setting}). {self.prepare}".rstrip())
        found = self._found(root)
        if not found:
            raise FileNotFoundError(
                f"{self.where}: no dataset in {root}: looked for {', '.join(self.annotations)} with the splits "
                f"{', '.join(self.splits)} in folders up to {_DEPTH} deep. {self.prepare}".rstrip()
            )
        if self.datasets is None:
            return found
        for name in self.datasets:
            if name not in found:
                raise ValueError(f"{self.where}: no dataset {name!r} in {root}{did_you_mean(str(name), found)}")
        return {name: found[name] for name in self.datasets}

    def _found(self, root: Path) -> dict[str, str]:
        splits = list(self.splits.values() if isinstance(self.splits, Mapping) else self.splits)
        by_top: dict[str, list[str]] = {}
        for folder in _dataset_folders(str(root), self.annotations, splits, _DEPTH):
            parts = os.path.relpath(folder, root)
            by_top.setdefault(parts.split(os.sep)[0], []).append(parts)
        named: dict[str, str] = {}
        for top, below in by_top.items():
            for part in below:  # the folders in between only tell several datasets of one folder apart
                name = _ODD.sub("_", top if len(below) == 1 else part).strip("_")
                if name in named:
                    raise ValueError(
                        f"{self.where}: {part!r} and {named[name]!r} would both be called {name!r}; give names "
                        "(datasets: {name: folder})"
                    )
                named[name] = part
        return {name: os.path.join(self.root, named[name]) for name in sorted(named)}


def _dataset_folders(root: str, patterns: Sequence[str], splits: Sequence[str], depth: int) -> Iterator[str]:
    """Folders below one in which annotations of a split lie; what lies deeper in these is not looked at."""
    if depth == 0:
        return
    for entry in sorted(os.scandir(root), key=lambda e: e.name):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        places = (os.path.join(entry.path, p.replace("{split}", s)) for p in patterns for s in splits)
        if any(map(os.path.isfile, places)):
            yield entry.path
        else:
            yield from _dataset_folders(entry.path, patterns, splits, depth - 1)


def load_cards(path: str | Path) -> list[DatasetCard]:
    """Read a file with a card or with a collection.

    Args:
        path: YAML file with the fields of :class:`mvseg.data.card.DatasetCard` or of :class:`Collection`.

    Returns:
        The cards.

    Raises:
        ValueError: if a field is unknown (the nearest names are listed), missing or wrong.
    """
    path = Path(path)
    fields = read_card_file(path)
    if "collection" not in fields:
        return [make_card(fields, path.resolve())]
    known = [f.name for f in dataclasses.fields(Collection) if f.name != "source"]
    for key in fields:
        if key not in known:
            raise ValueError(f"collection {path}: unknown field {key!r}{did_you_mean(str(key), known)}")
    if "root" not in fields:
        raise ValueError(f"collection {path}: missing field root, the folder with the datasets")
    return Collection(**fields, source=path.resolve()).cards()

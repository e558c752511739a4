"""Predictions of a partitioned detector on disk: a manifest, and shards of detections for every test set.

``manifest.json`` says which model made them and lists vocabularies and test sets; ``SET/detections_0000.npz`` holds
images, columns, boxes and scores, ``SET/objects.npz`` the annotation: neither model nor images are needed again.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .evidence import Detections, Evidence, Floats, Ints, Objects

MANIFEST = "manifest.json"
VERSION = 1
IMAGES_IN_SHARD = 2000


@dataclass(frozen=True)
class StoredVocabulary:
    """A vocabulary of the label space.

    Args:
        name: its name.
        words: its words in the order of its class indices.
        synonyms: other names of each word, or empty.
    """

    name: str
    words: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Header:
    """What must be equal for predictions to be of one kind.

    Args:
        vocabularies: the vocabularies in the order of their columns.
        weights: SHA-256 of the weight file.
        score_threshold: detections with a score above it are stored.
        detections_per_image: at most so many of each image are stored.
        nms_threshold: overlap above which the weaker detection of one column was taken away.
    """

    vocabularies: tuple[StoredVocabulary, ...]
    weights: str
    score_threshold: float
    detections_per_image: int
    nms_threshold: float

    def as_json(self) -> dict[str, Any]:
        """Write the header as JSON knows it.

        Returns:
            Lists instead of tuples.
        """
        return json.loads(json.dumps(asdict(self)))


@dataclass
class _Open:
    dataset: str
    entry: dict[str, Any]
    rows: list[tuple[Ints, Ints, Floats, Floats]] = field(default_factory=list)
    images: int = 0  # in the rows


class PredictionWriter:
    """Write predictions, one test set after the other; a set counts once it is complete.

    Args:
        folder: where they go; sets that an earlier run with the same header completed stay.
        header: what the predictions are.
        expected: names of all test sets that are to be written.
        note: anything that helps people, such as the name of the config file.

    Raises:
        ValueError: if the folder holds predictions of another model or other settings.
    """

    def __init__(
        self, folder: str | Path, header: Header, expected: Sequence[str], note: Mapping[str, str] | None = None
    ) -> None:
        self.folder = Path(folder)
        self.header = header
        self._sets: dict[str, dict[str, Any]] = {}
        self._expected, self._note = list(expected), dict(note or {})
        if (self.folder / MANIFEST).is_file():
            known = _read_manifest(self.folder)
            differing = [key for key, value in header.as_json().items() if known["header"].get(key) != value]
            if differing:
                raise ValueError(
                    f"{self.folder} holds predictions with other {', '.join(differing)}: name another folder, or "
                    "remove it"
                )
            self._sets = known["sets"]
        self._open: _Open | None = None

    @property
    def done(self) -> tuple[str, ...]:
        """Names of the complete test sets.

        Returns:
            The names.
        """
        return tuple(self._sets)

    def start(self, dataset: str, vocabulary: str, objects: Objects, image_ids: Sequence[Any], judged: Any) -> None:
        """Start a test set.

        Args:
            dataset: its name.
            vocabulary: name of its vocabulary.
            objects: what is there.
            image_ids: id of every image.
            judged: image number and class index of what people looked for, shape ``(V, 2)``, int, or None.
        """
        entry = {"vocabulary": vocabulary, "images": len(image_ids), "detections": 0, "shards": []}
        self._open = _Open(dataset, entry)
        arrays = {"images": objects.images, "classes": objects.classes, "boxes": objects.boxes, "crowd": objects.crowd}
        if judged is not None:
            arrays["judged"] = judged
        _save(self.folder / dataset / "objects.npz", image_ids=np.array([str(i) for i in image_ids], "U"), **arrays)

    def add(self, image: int, columns: Ints, boxes: Floats, scores: Floats) -> None:
        """Add the detections of one image.

        Args:
            image: its number.
            columns: label columns, shape ``(D,)``, int.
            boxes: corners in pixels, shape ``(D, 4)``, float.
            scores: scores, shape ``(D,)``, float.
        """
        assert self._open is not None  # between start and finish
        self._open.rows.append((np.full(len(columns), image), columns, boxes, scores))
        self._open.images += 1
        if self._open.images >= IMAGES_IN_SHARD:
            self._write_shard()

    def finish(self) -> None:
        """Complete the test set that was started."""
        assert self._open is not None
        self._write_shard()
        self._sets[self._open.dataset] = self._open.entry
        self._open = None
        manifest = {"version": VERSION, "header": self.header.as_json(), "note": self._note}
        manifest |= {"expected": self._expected, "sets": self._sets}
        _replace(self.folder / MANIFEST, json.dumps(manifest, indent=1).encode())

    def write_embeddings(self, tables: Mapping[str, Floats]) -> None:
        """Store text embeddings of the words.

        Args:
            tables: vocabulary to its embeddings, shape ``(n, D)``, float.
        """
        names = [v.name for v in self.header.vocabularies if v.name in tables]
        _save(self.folder / "embeddings.npz", **{f"v{i}": tables[name] for i, name in enumerate(names)}, names=names)

    def _write_shard(self) -> None:
        opened = self._open
        assert opened is not None
        if not opened.rows:
            return
        images, columns, boxes, scores = (np.concatenate(parts) for parts in zip(*opened.rows))
        name = f"detections_{len(opened.entry['shards']):04d}.npz"
        _save(
            self.folder / opened.dataset / name,
            images=images.astype(np.int32),
            columns=columns.astype(np.int32),
            boxes=boxes.astype(np.float32),
            scores=scores.astype(np.float32),
        )
        opened.entry["shards"].append(name)
        opened.entry["detections"] += len(images)
        opened.rows, opened.images = [], 0


def read_predictions(folder: str | Path, score_threshold: float | None = None) -> list[Evidence]:
    """Read stored predictions.

    Args:
        folder: what :class:`PredictionWriter` wrote.
        score_threshold: only detections with a score above it; None: all that are stored.

    Returns:
        One piece of evidence for every vocabulary, in the order of their columns; that of a vocabulary without a test
        set has no images.

    Raises:
        FileNotFoundError: if the folder or one of its files does not exist.
        ValueError: if a test set is missing, the files do not fit the manifest, or detections of that score were not
            stored.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    header = manifest["header"]
    missing = [name for name in manifest["expected"] if name not in manifest["sets"]]
    if missing:
        raise ValueError(f"{folder} is not complete, {', '.join(missing)} is missing: run the model again to go on")
    if score_threshold is not None and score_threshold < header["score_threshold"]:
        raise ValueError(
            f"{folder} holds detections with scores above {header['score_threshold']:g} only, not above "
            f"{score_threshold:g}: run the model again into another folder"
        )
    embeddings = _read_embeddings(folder)
    return [
        _evidence_of(
            folder,
            StoredVocabulary(words["name"], tuple(words["words"]), tuple(map(tuple, words["synonyms"]))),
            {name: entry for name, entry in manifest["sets"].items() if entry["vocabulary"] == words["name"]},
            score_threshold,
            embeddings.get(words["name"]),
        )
        for words in header["vocabularies"]
    ]


def read_facts(folder: str | Path) -> dict[str, Any]:
    """Read what the manifest says about stored predictions.

    Args:
        folder: what :class:`PredictionWriter` wrote.

    Returns:
        The manifest: ``header``, ``note``, and ``sets`` with their counts.
    """
    return _read_manifest(Path(folder))


def _evidence_of(
    folder: Path,
    words: StoredVocabulary,
    sets: Mapping[str, Mapping[str, Any]],
    threshold: float | None,
    embeddings: Floats | None,
) -> Evidence:
    found, there, judged, first = [], [], [], 0
    for dataset, entry in sets.items():
        parts = [_load(folder / dataset / name) for name in entry["shards"]]
        if sum(len(part["images"]) for part in parts) != entry["detections"]:
            raise ValueError(f"{folder / dataset}: the shards do not hold the {entry['detections']} detections it says")
        found += [(p["images"] + first, p["columns"], p["boxes"], p["scores"]) for p in parts]
        truth = _load(folder / dataset / "objects.npz")
        there.append((truth["images"] + first, truth["classes"], truth["boxes"], truth["crowd"]))
        if "judged" in truth:
            judged.append(truth["judged"] + [first, 0])
        else:
            judged.append(None)
        first += entry["images"]
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4), np.float32))
    detections = Detections(*map(np.concatenate, zip(*found)) if found else (*empty, np.empty(0, np.float32)))
    if threshold is not None:
        detections = detections.take(detections.scores > threshold)
    objects = Objects(*map(np.concatenate, zip(*there)) if there else (*empty, np.empty(0, bool)))
    looked = [pairs for pairs in judged if pairs is not None]
    if looked and len(looked) < len(judged):
        raise ValueError(f"{folder}: only some test sets of {words.name} say what was judged: {', '.join(sets)}")
    return Evidence(
        words.name,
        words.words,
        detections,
        objects,
        first,
        np.concatenate(looked) if looked else None,
        words.synonyms,
        embeddings,
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no predictions: it has no {MANIFEST}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise ValueError(f"{path} is no manifest of version {VERSION}: run the model again into another folder")
    return manifest


def _read_embeddings(folder: Path) -> dict[str, Floats]:
    path = folder / "embeddings.npz"
    if not path.is_file():
        return {}
    arrays = _load(path)
    return {name: arrays[f"v{number}"] for number, name in enumerate(arrays["names"].tolist())}


def _load(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}, which the manifest lists, does not exist") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _save(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        np.savez_compressed(file, **arrays)
    os.replace(file.name, path)


def _replace(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        file.write(content)
    os.replace(file.name, path)

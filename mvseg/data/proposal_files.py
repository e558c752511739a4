"""Stored proposals: a folder with the boxes that a detector proposes for every image of a dataset, made to be mapped.

Layout: images are written in shards of a fixed number, in the order of the dataset. A shard is one NumPy file for each
array, rows of all its images one after the other: ``shard-00003.boxes.npy`` (rows, 4) float32 x0, y0, x1, y1 in pixels
of the image file, best first, and ``shard-00003.scores.npy`` (rows,) float32 from 0 to 1; ``shard-00003.starts.npy``
(images + 1,) int64 says where the rows of each image begin. ``shard-00003.json`` is written last: with it the shard is
finished; it holds the image ids and a checksum of every file. ``manifest.json`` says to which dataset and weights the
folder belongs; ``ids.npy`` (sorted) and ``places.npy`` (shard, position) find an image.

Further arrays with the same rows may lie beside the boxes, such as embeddings (rows, D) float16 of the images' crops,
``shard-00003.embeddings.npy``: :func:`add_array` writes one for a finished shard without touching the others, and
:meth:`ProposalFolder.read` gives all arrays of an image, cut at the same offsets.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MANIFEST, JOB = "manifest.json", "job.json"
VERSION = 1
BOXES, SCORES, STARTS = "boxes", "scores", "starts"
REPAIR = "run python -m mvseg.inference.proposals with the same arguments again: it keeps what is whole"
OPEN_SHARDS = 64  # mapped at a time by a reader: every array holds a file open

Array = npt.NDArray[Any]
ImageId = int | str
Arrays = Mapping[str, Array]


class ProposalFileError(ValueError):
    """A folder of proposals is incomplete, damaged, or belongs to something else."""


def checksum(path: Path) -> str:
    """Compute the checksum of a file.

    Args:
        path: the file.

    Returns:
        BLAKE2b of its bytes, 32 hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_shard(folder: Path, number: int, images: Sequence[tuple[ImageId, Arrays]]) -> None:
    """Write a shard; a killed process leaves none, or a whole one.

    Args:
        folder: the folder, which exists.
        number: number of the shard.
        images: image id and arrays of each image, all with the same names; the first dimension are the image's rows.

    Raises:
        ValueError: if the arrays of an image have different numbers of rows.
    """
    starts = [0]
    parts: dict[str, list[Array]] = {name: [] for name in images[0][1]}
    for image_id, arrays in images:
        rows = {len(values) for values in arrays.values()}
        if len(rows) != 1:
            raise ValueError(f"image {image_id!r}: arrays of {sorted(rows)} rows, which must be equally many")
        starts.append(starts[-1] + rows.pop())
        for name, values in arrays.items():
            parts[name].append(values)
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    files = {n: _write_array(folder, number, n, v) for n, v in {**whole, STARTS: np.array(starts, np.int64)}.items()}
    _write_json(_shard_file(folder, number), {"images": [i for i, _ in images], "rows": starts[-1], "files": files})


def add_array(folder: Path, number: int, name: str, values: Array) -> None:
    """Put a further array beside the boxes of a finished shard.

    Args:
        folder: the folder.
        number: number of the shard.
        name: name of the array, such as "embeddings".
        values: shape ``(rows, ...)``, the rows of all its images one after the other.

    Raises:
        ValueError: if the shard has another number of rows.
    """
    head = json.loads(_shard_file(folder, number).read_text())
    if len(values) != head["rows"]:
        raise ValueError(f"{_shard_file(folder, number)} has {head['rows']} rows, array {name!r} has {len(values)}")
    head["files"][name] = _write_array(folder, number, name, values)
    _write_json(_shard_file(folder, number), head)


def is_whole(folder: Path, number: int) -> bool:
    """Say whether a shard is finished and undamaged.

    Args:
        folder: the folder.
        number: number of the shard.

    Returns:
        True if all its files are there with their checksums.
    """
    try:
        files = json.loads(_shard_file(folder, number).read_text())["files"]
        return all(checksum(_array_file(folder, number, name)) == entry["checksum"] for name, entry in files.items())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def start_job(folder: Path, facts: Mapping[str, Any]) -> None:
    """Make a folder, or go on in one of the same job.

    Args:
        folder: the folder.
        facts: what the proposals depend on: dataset, weights, numbers; plain values.

    Raises:
        ProposalFileError: if the folder has proposals that depend on something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / JOB
    if path.exists():
        known = json.loads(path.read_text())
        differ = [key for key in sorted({*known, *facts}) if known.get(key) != facts.get(key)]
        if differ:
            texts = [f"{key} is {known.get(key)!r} there and {facts.get(key)!r} now" for key in differ]
            raise ProposalFileError(
                f"{folder} holds proposals of another kind: {'; '.join(texts)}. Choose another folder, or "
                "delete this one"
            )
        return
    _write_json(path, dict(facts))


def finish_job(folder: Path, count: int, content: str = "mvseg proposals", repair: str = REPAIR) -> None:
    """Write the index and the manifest once all shards are there.

    Args:
        folder: the folder.
        count: number of shards.
        content: what the shards hold.
        repair: what to do if a shard is missing.

    Raises:
        ProposalFileError: if a shard is missing, or an image is in two places.
    """
    ids: list[ImageId] = []
    places, shards = [], []
    for number in range(count):
        path = _shard_file(folder, number)
        if not path.is_file():
            raise ProposalFileError(f"{path} is missing: {repair}")
        head = json.loads(path.read_text())
        ids += head["images"]
        places += [(number, position) for position in range(len(head["images"]))]
        shards.append({"images": len(head["images"]), "rows": head["rows"], "files": head["files"]})
    numbers = all(isinstance(i, int) for i in ids)
    keys = np.array(ids, np.int64) if numbers else np.array([str(i).encode() for i in ids], np.bytes_)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        raise ProposalFileError(f"{folder}: image {keys[twice[0]]} is there twice; image ids of a dataset must differ")
    _write_npy(folder / "ids.npy", keys)
    _write_npy(folder / "places.npy", np.array(places, np.int32).reshape(-1, 2)[order])
    facts = json.loads((folder / JOB).read_text())
    manifest = {"format": content, "version": VERSION, "images": len(ids), **facts, "shards": shards}
    _write_json(folder / MANIFEST, manifest)


class ProposalFolder:
    """Reads stored proposals at random, in constant memory.

    Args:
        folder: the folder.
        where: dataset named in errors.

    Raises:
        FileNotFoundError: if there is no folder of proposals.
        ProposalFileError: if it is unfinished or has another version.
    """

    what = "proposals"
    command = "python -m mvseg.inference.proposals"
    arguments = "--config-file FILE --weights FILE --dataset NAME --output FOLDER"
    compares = True  # whether a shard is read as a whole once, to compare its checksums

    def __init__(self, folder: str | Path, where: str = "") -> None:
        self.folder, self.where = Path(folder), f"{where}: " if where else ""
        path = self.folder / MANIFEST
        if not path.is_file():
            if (self.folder / JOB).is_file():
                raise ProposalFileError(
                    f"{self.where}the {self.what} in {self.folder} are not finished: {self._repair}"
                )
            raise FileNotFoundError(
                f"{self.where}there are no stored {self.what} in {self.folder}; make them: {self.command} "
                f"{self.arguments}"
            )
        self.manifest = json.loads(path.read_text())
        if self.manifest.get("version") != VERSION:
            raise ProposalFileError(
                f"{self.where}{path} has version {self.manifest.get('version')}, this mvseg reads version {VERSION}"
            )
        self._open()

    def _open(self) -> None:
        self._ids: Array = _map(self.folder / "ids.npy")
        self._places: Array = _map(self.folder / "places.npy")
        self._whole: set[int] = set()
        self._shard = functools.lru_cache(maxsize=OPEN_SHARDS)(self._map_shard)

    @property
    def _repair(self) -> str:
        return f"run {self.command} with the same arguments again: it keeps what is whole"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped files out: a worker maps them again."""
        return {"folder": self.folder, "where": self.where, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return int(self.manifest["images"])

    def __contains__(self, image_id: ImageId) -> bool:
        return self._find(image_id) is not None

    def check_dataset(self, name: str, fingerprint: str) -> None:
        """Check that the proposals are those of a dataset as it is now.

        Args:
            name: the dataset.
            fingerprint: of its images, see :func:`mvseg.data.proposals.images_fingerprint`.

        Raises:
            ProposalFileError: if they belong to other images.
        """
        if self.manifest["images_fingerprint"] != fingerprint:
            raise ProposalFileError(
                f"dataset {name!r}: the {self.what} in {self.folder} were made for {self.manifest['dataset']!r} with "
                f"{len(self)} images, which are not the images of this dataset as it is now (other ids, sizes or file "
                f"names). Make them again: {self.command}"
            )

    def read(self, image_id: ImageId) -> dict[str, Array]:
        """Read the proposals of an image.

        Args:
            image_id: the image.

        Returns:
            Array name to the rows of the image: ``boxes`` (k, 4), ``scores`` (k,), and what else is stored; mapped, so
            copy what you change.

        Raises:
            KeyError: if the image is not there.
            ProposalFileError: if its shard is missing or damaged.
        """
        place = self._find(image_id)
        if place is None:
            owner = self.manifest["dataset"]
            raise KeyError(
                f"{self.where}the {self.what} in {self.folder} (of {owner!r}, {len(self)} images) lack image "
                f"{image_id!r}: make them again for this dataset, {self.command}"
            )
        number, position = place
        try:
            arrays = self._shard(number)
        except (OSError, ValueError) as error:
            raise ProposalFileError(
                f"{self.where}image {image_id!r}: its {self.what} in {self.folder} cannot be read: {error}; "
                f"{self._repair}"
            ) from error
        start, end = (int(edge) for edge in arrays[STARTS][position : position + 2])
        return {name: values[start:end] for name, values in arrays.items() if name != STARTS}

    def _find(self, image_id: ImageId) -> tuple[int, int] | None:
        number = self._ids.dtype.kind == "i"
        if number and not isinstance(image_id, int | np.integer):
            return None
        key = np.array(image_id, np.int64) if number else np.array(str(image_id).encode(), np.bytes_)
        row = int(np.searchsorted(self._ids, key))
        if row >= len(self._ids) or self._ids[row] != key:
            return None
        return int(self._places[row, 0]), int(self._places[row, 1])

    def _map_shard(self, number: int) -> dict[str, Array]:
        entry = self.manifest["shards"][number]
        files = json.loads(_shard_file(self.folder, number).read_text())["files"]  # arrays may have been added
        arrays = {}
        for name in {**files, **entry["files"]}:
            path = _array_file(self.folder, number, name)
            if self.compares and number not in self._whole and checksum(path) != files[name]["checksum"]:
                raise ValueError(f"{path} is damaged (its checksum is another one)")
            arrays[name] = _map(path)
        self._whole.add(number)
        return arrays


def _shard_file(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.json"


def _array_file(folder: Path, number: int, name: str) -> Path:
    return folder / f"shard-{number:05d}.{name}.npy"


def _map(path: Path) -> Array:
    values: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return values


def _write_array(folder: Path, number: int, name: str, values: Array) -> dict[str, Any]:
    path = _array_file(folder, number, name)
    _write_npy(path, values)
    return {"type": str(values.dtype), "shape": list(values.shape), "checksum": checksum(path)}


def _write_npy(path: Path, values: Array) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    _write(path, buffer.getbuffer())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write(path, json.dumps(content, indent=1).encode())


def _write(path: Path, content: bytes | memoryview) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)

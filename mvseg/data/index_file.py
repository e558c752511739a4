"""The index of a folder of tar files: one file of arrays that is mapped, never read, and the check that it still fits.

Layout: the magic line, the length of the head as 8 bytes, the head as JSON (version, tar files, labels, and type,
length and place of every array), then the arrays.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

INDEX_NAME = "mvseg.index"  # beside the tar files
REBUILD = "make the index again: python -m mvseg.data index"
_MAGIC = b"mvseg index\n"
_VERSION = 1
_ALIGN = 64
_SAMPLES, _SAMPLE = 64, 4096  # places of a tar file, and bytes at each, that its fingerprint is made of


@dataclass(frozen=True)
class TarFile:
    """A tar file as it was when it was indexed.

    Args:
        name: path relative to the folder.
        size: bytes.
        mtime: time of the last change in nanoseconds.
        fingerprint: of its content, see :func:`fingerprint`.
        images: number of images in it.
    """

    name: str
    size: int
    mtime: int
    fingerprint: str
    images: int


@dataclass(frozen=True)
class Index:
    """An index that has been opened.

    Args:
        files: the tar files.
        labels: the labels, in the order of their numbers.
        arrays: the mapped arrays: ``shard``, ``offset``, ``size``, ``names``, ``name_starts`` and where there are such
            ``labels``, ``label_starts``, ``captions``, ``caption_starts``.
        counts: what the indexing counted.
    """

    files: tuple[TarFile, ...]
    labels: tuple[str, ...]
    arrays: Mapping[str, npt.NDArray[Any]]
    counts: Mapping[str, Any]


def fingerprint(path: Path) -> str:
    """Compute a number that tells two tar files apart without reading all of them.

    Args:
        path: the file.

    Returns:
        Hash of its size, its start and end, and of places evenly between.
    """
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        for place in np.linspace(0, max(size - _SAMPLE, 0), _SAMPLES).astype(np.int64).tolist():
            file.seek(place)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def write_index(
    path: Path,
    files: Sequence[TarFile],
    labels: Sequence[str],
    arrays: Mapping[str, npt.NDArray[Any]],
    counts: Mapping[str, Any],
) -> None:
    """Write an index; a killed process leaves the old one, or none.

    Args:
        path: file to write.
        files: the tar files.
        labels: the labels, in the order of their numbers.
        arrays: the arrays, one-dimensional.
        counts: what the indexing counted.
    """
    place, places = 0, {}
    for name, values in arrays.items():
        places[name] = [values.dtype.str, len(values), place]
        place += -(-values.nbytes // _ALIGN) * _ALIGN
    head = {
        "version": _VERSION,
        "files": [asdict(file) for file in files],
        "labels": list(labels),
        "arrays": places,
        "bytes": place,
        "counts": dict(counts),
    }
    text = json.dumps(head).encode()
    start = len(_MAGIC) + 8 + len(text)
    text += b" " * (-start % _ALIGN)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.write(_MAGIC + len(text).to_bytes(8, "little") + text)
            for values in arrays.values():
                file.write(np.ascontiguousarray(values).data)
                file.write(bytes(-values.nbytes % _ALIGN))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def open_index(path: Path, where: str = "") -> Index:
    """Open an index; its arrays are mapped, so this takes the same time and memory for any number of images.

    Args:
        path: the file.
        where: dataset named in errors.

    Returns:
        The index; whether it fits the tar files is not looked at.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is no index, was cut off, or has another version.
    """
    where = f"{where}: " if where else ""
    if not path.is_file():
        raise FileNotFoundError(f"{where}there is no index {path}; {REBUILD} {path.parent}")
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
        length = int.from_bytes(file.read(8), "little")
        size = os.fstat(file.fileno()).st_size
        text = file.read(length) if magic == _MAGIC and length <= size else b""
    try:
        head = json.loads(text)
        start = len(_MAGIC) + 8 + length
        if head["version"] != _VERSION:
            raise ValueError(f"it has version {head['version']}, this mvseg reads version {_VERSION}")
        if size != start + head["bytes"]:
            raise ValueError(f"it has {size} bytes instead of {start + head['bytes']}: it was cut off")
        arrays = {
            name: np.memmap(path, dtype, "r", start + place, (count,)) if count else np.zeros(0, dtype)
            for name, (dtype, count, place) in head["arrays"].items()
        }
        files = tuple(TarFile(**fields) for fields in head["files"])
        return Index(files, tuple(head["labels"]), arrays, head["counts"])
    except (ValueError, KeyError, TypeError) as error:
        reason = "it does not start like one" if not text else error
        raise ValueError(f"{where}{path} is no usable index: {reason}; {REBUILD} {path.parent}") from error


def check_files(files: Sequence[TarFile], folder: Path, where: str) -> None:
    """Check that the tar files are still those that were indexed.

    Size and time are compared, and where only the time differs (a copy) the fingerprint.

    Args:
        files: the tar files as they were.
        folder: where they are.
        where: dataset named in errors.

    Raises:
        FileNotFoundError: if some are missing.
        ValueError: if one has changed.
    """
    missing = []
    for known in files:
        path = folder / known.name
        try:
            found = path.stat()
        except FileNotFoundError:
            missing.append(known.name)
            continue
        if found.st_size != known.size:
            raise ValueError(
                f"{where}: {path} has {found.st_size} bytes, the index was made when it had {known.size}: the file was "
                f"changed or is not complete; {REBUILD} {folder}"
            )
        if found.st_mtime_ns != known.mtime and fingerprint(path) != known.fingerprint:
            raise ValueError(f"{where}: {path} has changed since the index was made; {REBUILD} {folder}")
    if missing:
        raise FileNotFoundError(
            f"{where}: {len(missing)} of {len(files)} tar files of the index are missing in {folder}, the first: "
            f"{missing[0]}; bring them there, or {REBUILD} {folder}"
        )

"""Making the index of a folder of tar files: every image with its place, its labels and its sentences."""

from __future__ import annotations

import json
import logging
import os
import tarfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .index_file import INDEX_NAME, Index, TarFile, fingerprint, open_index, write_index
from .sources.images import is_image

logger = logging.getLogger(__name__)

LABELS_FROM = ("sidecar", "folder", "shard")
LABEL_KEYS = ("labels", "tags", "label", "cls", "class")
CAPTION_KEYS = ("captions", "caption", "text")
LARGEST_SIDECAR = 1 << 20  # bytes
LISTED = 20
_BLOCK = 512


@dataclass
class _Part:
    """What was found in one tar file."""

    file: TarFile | None = None
    offset: array[int] = field(default_factory=lambda: array("q"))
    size: array[int] = field(default_factory=lambda: array("q"))
    names: bytearray = field(default_factory=bytearray)
    name_lengths: array[int] = field(default_factory=lambda: array("i"))
    labels: dict[str, int] = field(default_factory=dict)
    label_values: array[int] = field(default_factory=lambda: array("i"))
    label_counts: array[int] = field(default_factory=lambda: array("i"))
    captions: bytearray = field(default_factory=bytearray)
    caption_lengths: array[int] = field(default_factory=lambda: array("i"))
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


@dataclass
class _Sample:
    """Members that follow one another under one name: images, and files that say something about them."""

    key: str
    images: list[tarfile.TarInfo] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


def make_index(
    folder: str | Path, labels: str = "sidecar", output: str | Path | None = None, workers: int = 0
) -> Index:
    """Index the tar files in a folder and below; images are not decoded.

    Args:
        folder: the folder.
        labels: where the labels of an image are: "sidecar": in the members ``NAME.cls`` or ``NAME.json`` beside
            ``NAME.jpg``; "folder": the first folder of its name in the tar file; "shard": the name of the tar file.
            Sentences are always read from ``NAME.txt`` and ``NAME.json``.
        output: the index to write; None: ``mvseg.index`` in the folder.
        workers: processes that read tar files; 0: this one.

    Returns:
        The index written.

    Raises:
        FileNotFoundError: if there is no tar file.
        ValueError: if a tar file is damaged or compressed, or there is no image, or nothing is said about any.
    """
    if labels not in LABELS_FROM:
        raise ValueError(f"labels from {labels!r}: say {', '.join(LABELS_FROM)}")
    folder = Path(folder)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.tar"))
    if not names:
        packed = sorted(path.name for path in folder.rglob("*.tar.*")) + sorted(p.name for p in folder.rglob("*.tgz"))
        advice = f"; {packed[0]} is compressed, which allows no random access: decompress it" if packed else ""
        raise FileNotFoundError(f"there is no tar file (*.tar) in {folder.absolute()}{advice}")
    jobs = [(str(folder), name, labels) for name in names]
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            parts = list(pool.map(_scan, jobs))
    else:
        parts = [_scan(job) for job in jobs]
    path = Path(output) if output is not None else folder / INDEX_NAME
    _write(path, parts, folder, labels)
    return open_index(path)


def _write(path: Path, parts: Sequence[_Part], folder: Path, labels: str) -> None:
    counts = sum((part.counts for part in parts), Counter[str]())
    for text in [text for part in parts for text in part.problems][:LISTED]:
        logger.warning("%s", text)
    if not counts["images"]:
        raise ValueError(f"none of the {len(parts)} tar files in {folder} holds an image")
    if not counts["labels"] and not counts["captions"]:
        raise ValueError(
            f"nothing is said about any of the {counts['images']} images in the tar files of {folder}: no NAME.cls, "
            "NAME.json or NAME.txt lies beside NAME.jpg. Say --labels shard if every tar file is one class (ImageNet), "
            "--labels folder if the folders in the tar files are"
        )
    numbers: dict[str, int] = {}
    values = []
    for part in parts:  # the labels of a file have numbers of their own
        renumber = np.array([numbers.setdefault(label, len(numbers)) for label in part.labels], np.int32)
        values.append(renumber[_array(part.label_values, np.int32)] if len(renumber) else np.zeros(0, np.int32))
    arrays = {
        "shard": np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.offset) for part in parts]),
        "offset": _joined([part.offset for part in parts], np.int64),
        "size": _joined([part.size for part in parts], np.int64),
        "names": np.concatenate([_array(part.names, np.uint8) for part in parts]),
        "name_starts": _starts([part.name_lengths for part in parts]),
    }
    if counts["labels"]:
        arrays["labels"] = np.concatenate(values)
        arrays["label_starts"] = _starts([part.label_counts for part in parts])
    if counts["captions"]:
        arrays["captions"] = np.concatenate([_array(part.captions, np.uint8) for part in parts])
        arrays["caption_starts"] = _starts([part.caption_lengths for part in parts])
    counts["shards"], counts["classes"] = len(parts), len(numbers)
    write_index(
        path, [part.file for part in parts if part.file], list(numbers), arrays, {**counts, "labels_from": labels}
    )


def _array(values: Any, dtype: Any) -> np.ndarray:
    return np.frombuffer(values, dtype) if len(values) else np.zeros(0, dtype)


def _joined(values: Sequence[Any], dtype: Any) -> np.ndarray:
    return np.concatenate([_array(v, dtype) for v in values])


def _starts(lengths: Sequence[array[int]]) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(_joined(lengths, np.int32), dtype=np.int64)])


def _scan(job: tuple[str, str, str]) -> _Part:
    """Index one tar file."""
    folder, name, labels_from = job
    path = Path(folder) / name
    part = _Part()
    for sample in _samples(path, part):
        if labels_from == "shard":
            sample.labels = [PurePosixPath(name).stem]
        for image in sample.images:
            if labels_from == "folder":
                places = PurePosixPath(image.name).parts
                sample.labels = [places[0]] if len(places) > 1 else []
            _add(part, image, sample)
    stat = path.stat()
    part.file = TarFile(name, stat.st_size, stat.st_mtime_ns, fingerprint(path), len(part.offset))
    return part


def _add(part: _Part, image: tarfile.TarInfo, sample: _Sample) -> None:
    name = image.name.encode("utf-8", errors="surrogateescape")
    part.offset.append(image.offset_data)
    part.size.append(image.size)
    part.names += name
    part.name_lengths.append(len(name))
    labels = list(dict.fromkeys(sample.labels))
    part.label_values.extend(part.labels.setdefault(label, len(part.labels)) for label in labels)
    part.label_counts.append(len(labels))
    captions = "\n".join(" ".join(text.split()) for text in sample.captions if text.strip()).encode()
    part.captions += captions
    part.caption_lengths.append(len(captions))
    part.counts.update(images=1, labels=len(labels), captions=bool(captions))
    part.counts["without_label"] += not labels


def _samples(path: Path, part: _Part) -> Iterator[_Sample]:
    sample = _Sample("")
    for member, tar in _members(path):
        base = PurePosixPath(member.name).name
        if not member.isfile() or base.startswith("."):
            part.counts["other"] += not member.isdir()
            continue
        key = f"{PurePosixPath(member.name).parent}/{base.split('.', 1)[0]}"
        if key != sample.key:
            if sample.images:
                yield sample
            sample = _Sample(key)
        if not is_image(base):
            _read_sidecar(path, tar, member, sample, part)
        elif member.size:
            sample.images.append(member)
        else:
            part.counts["empty"] += 1
            part.problems.append(f"{path}: {member.name} is empty: left out")
    if sample.images:
        yield sample


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """The members of a tar file with constant memory, and an error where Python's reader would just stop."""
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise ValueError(f"{path} is compressed, which allows no random access: decompress it (gunzip)")
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                yield member, tar
            _check_end(path, tar.offset)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is damaged or not complete: {error}; get it again") from error


def _check_end(path: Path, offset: int) -> None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(offset)
        block = file.read(_BLOCK)
    if block.strip(b"\0") or offset > size:
        raise ValueError(
            f"{path} is damaged at byte {offset} of {size}: no header of a member starts there; get it again"
        )


def _read_sidecar(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, sample: _Sample, part: _Part) -> None:
    """Take labels and sentences from a member beside the image."""
    ending = PurePosixPath(member.name).suffix.lower()
    if ending not in (".cls", ".txt", ".json"):
        part.counts["other"] += 1
        return
    try:
        if member.size > LARGEST_SIDECAR:
            raise ValueError(f"{member.size} bytes are too many")
        file = tar.extractfile(member)
        text = (file.read() if file else b"").decode("utf-8")
        if ending == ".cls":
            sample.labels += _texts(text.replace("\n", "|").split("|"))
        elif ending == ".txt":
            sample.captions.append(text)
        else:
            _read_json(json.loads(text), sample)
    except ValueError as error:  # text that is no UTF-8 and JSON that is none are ValueErrors too
        part.counts["bad_sidecar"] += 1
        if len(part.problems) < LISTED:
            part.problems.append(f"{path}: {member.name} cannot be used: {error}: left out")


def _read_json(tree: Any, sample: _Sample) -> None:
    if not isinstance(tree, dict):
        raise ValueError(f"expected a mapping with {', '.join((*LABEL_KEYS, *CAPTION_KEYS))}, found {tree!r:.80}")
    for keys, texts in ((LABEL_KEYS, sample.labels), (CAPTION_KEYS, sample.captions)):
        for key in keys:
            found = tree.get(key)
            if found is not None:
                texts += _texts(found if isinstance(found, list) else [found])
                break


def _texts(values: Sequence[Any]) -> list[str]:
    for value in values:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise ValueError(f"{value!r:.80} is neither a text nor a whole number")
    return [text for value in values if (text := str(value).strip())]

"""Embeddings of sentences that are kept on disk, so that no sentence goes through the same encoder twice.

A folder for each encoder, named by its fingerprint, holds files that never change once they are written: each has the
hashes of some sentences and their rows. So any number of processes may read and write at once; a file that cannot be
read is removed, and its sentences are encoded again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .base import TextEncoder, check_items

CHUNK = 4096  # sentences in one file; what a killed run had written before is kept
MAX_FILES = 100  # files in a folder above which the small ones are joined
SMALL_FILE = 2**20  # bytes

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Find the folder in which mvseg keeps what it can make again.

    Returns:
        ``$MVSEG_CACHE``, or ``~/.cache/mvseg``.
    """
    return Path(os.environ.get("MVSEG_CACHE") or "~/.cache/mvseg").expanduser()


class CachedTextEncoder:
    """Keep the embeddings of an encoder on disk; only sentences that are not there are encoded.

    Args:
        encoder: the encoder.
        folder: folder of the cache; None: :func:`cache_folder`.
    """

    def __init__(self, encoder: TextEncoder, folder: str | Path | None = None) -> None:
        self.encoder = encoder
        self._root = cache_folder() if folder is None else Path(folder)
        self._keys: dict[Path, frozenset[bytes]] = {}  # what is known to be in the files, which do not change

    @property
    def fingerprint(self) -> str:
        """Say which encoder this is by its content.

        Returns:
            The fingerprint of the encoder behind the cache.
        """
        return self.encoder.fingerprint

    @property
    def folder(self) -> Path:
        """Folder with the files of this encoder.

        Returns:
            The folder; it may not exist yet.
        """
        return self._root / "text" / self.fingerprint

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed sentences, reading from disk what is there and writing what is new.

        Args:
            texts: n sentences.

        Returns:
            Embeddings (n, D), float32, on the CPU.
        """
        check_items(texts)
        known = self._read({_key(text) for text in texts})
        missing = [text for text in dict.fromkeys(texts) if _key(text) not in known]
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            rows = self.encoder.encode(chunk).float().numpy()
            keys = [_key(text) for text in chunk]
            self._write(keys, rows)
            known.update(zip(keys, rows, strict=True))
        if missing:
            self._join_small_files()
        return torch.from_numpy(np.stack([known[_key(text)] for text in texts]))

    def _read(self, wanted: set[bytes]) -> dict[bytes, np.ndarray]:
        found: dict[bytes, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.npz")):
            left = wanted - found.keys()
            if not left:
                break
            if path in self._keys and left.isdisjoint(self._keys[path]):
                continue
            keys, rows = _load(path, left)
            self._keys[path] = frozenset(keys)
            found.update({key: row for key, row in zip(keys, rows, strict=False) if key in wanted})
        return found

    def _write(self, keys: Sequence[bytes], rows: np.ndarray) -> Path | None:
        """Write a file whole or not at all; a cache that cannot be written is no reason to stop."""
        name = hashlib.sha256(b"".join(sorted(keys))).hexdigest()[:16]
        path = self.folder / f"{name}.npz"
        table = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1)
        temporary: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tmp", delete=False) as file:
                temporary = Path(file.name)
                np.savez(file, keys=table, rows=rows)
            temporary.chmod(0o644)  # a shared cache is read by others
            os.replace(temporary, path)
        except OSError as error:
            logger.warning("Embeddings are not kept: cache folder %s cannot be written (%s)", self.folder, error)
            return None
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
        return path

    def _join_small_files(self) -> None:
        files = sorted(self.folder.glob("*.npz"))
        small = [path for path in files if _size(path) < SMALL_FILE]
        if len(files) <= MAX_FILES or len(small) < 2:
            return
        rows: dict[bytes, np.ndarray] = {}
        for path in small:
            keys, values = _load(path)
            rows.update(zip(keys, values, strict=True))
        whole = self._write(list(rows), np.stack(list(rows.values())))
        for path in small:
            if whole is not None and path != whole:
                path.unlink(missing_ok=True)  # another process that looks for it now encodes its sentences again


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # joined by another process
        return SMALL_FILE


def _load(path: Path, wanted: set[bytes] | None = None) -> tuple[list[bytes], np.ndarray]:
    """Hashes of a file, and its rows if some are wanted (None: all are); nothing if it is gone or damaged."""
    nothing: tuple[list[bytes], np.ndarray] = ([], np.zeros((0, 0), np.float32))
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = [row.tobytes() for row in archive["keys"]]
            if wanted is not None and wanted.isdisjoint(keys):
                return keys, nothing[1]
            rows = archive["rows"]
        if rows.ndim != 2 or len(rows) != len(keys) or not np.isfinite(rows).all():
            raise ValueError(f"{len(keys)} sentences, rows of shape {rows.shape}")
    except FileNotFoundError:
        return nothing
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("Cache file %s is damaged (%s): it is removed and made again", path, error)
        path.unlink(missing_ok=True)
        return nothing
    return keys, rows

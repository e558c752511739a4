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

from .base import TextEncoder

CHUNK = 4096  # sentences in one file; what a killed run had written before is kept
MAX_FILES = 100  # files in a folder above which the small ones are joined

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
        if isinstance(texts, str) or not texts:
            return self.encoder.encode(texts)  # raises
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
        for path in self._files():
            if len(found) == len(wanted):
                break
            keys, rows = _load(path, wanted - found.keys())
            found.update({key: row for key, row in zip(keys, rows, strict=True) if key in wanted})
        return found

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.npz"))

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
            os.replace(temporary, path)
        except OSError as error:
            logger.warning("Embeddings are not kept: cache folder %s cannot be written (%s)", self.folder, error)
            return None
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
        return path

    def _join_small_files(self) -> None:
        files = self._files()
        if len(files) <= MAX_FILES:
            return
        rows: dict[bytes, np.ndarray] = {}
        joined = []
        for path in files:
            keys, values = _load(path, None)
            if len(keys) < CHUNK:
                rows.update(zip(keys, values, strict=True))
                joined.append(path)
        if len(joined) < 2:
            return
        whole = self._write(list(rows), np.stack(list(rows.values())))
        for path in joined:
            if whole is not None and path != whole:
                path.unlink(missing_ok=True)  # whoever looks for it now encodes its sentences again


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _load(path: Path, wanted: set[bytes] | None) -> tuple[list[bytes], np.ndarray]:
    """Hashes and rows of a file; nothing if it has none of the wanted ones, was removed meanwhile, or is damaged."""
    nothing: tuple[list[bytes], np.ndarray] = ([], np.zeros((0, 0), np.float32))
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = [row.tobytes() for row in archive["keys"]]
            if wanted is not None and wanted.isdisjoint(keys):
                return nothing
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

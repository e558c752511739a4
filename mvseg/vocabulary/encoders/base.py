"""What all encoders offer and share: the interfaces, batches, content hashes, errors for missing packages."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

FINGERPRINT_LENGTH = 32  # hexadecimal digits: 128 bits

Item = TypeVar("Item")


class TextEncoder(Protocol):
    """What everything that makes text embeddings offers."""

    @property
    def fingerprint(self) -> str:
        """Say which encoder this is by its content.

        Returns:
            Hash of the weights and of all settings that change an embedding; the same on every machine.
        """
        ...

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed sentences.

        Args:
            texts: n sentences.

        Returns:
            Embeddings (n, D), float32, on the CPU.
        """
        ...


class ImageEncoder(Protocol):
    """What everything that makes image embeddings offers."""

    @property
    def fingerprint(self) -> str:
        """Say which encoder this is by its content.

        Returns:
            Hash of the weights and of all settings that change an embedding.
        """
        ...

    def encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Embed images.

        Args:
            images: n images (H, W, 3), uint8, RGB, of any size.

        Returns:
            Embeddings (n, D), float32, on the CPU.
        """
        ...


@dataclass(frozen=True)
class PixelSettings:
    """How an image encoder wants its pixels.

    Args:
        size: height and width of its input.
        mean: subtracted from values of 0 to 1, RGB.
        std: they are divided by it.
        interpolation: "bicubic" or "bilinear".
        resize: "squash" to the size, or "shortest": the shorter side is resized, and the middle is cut out.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize: str = "shortest"


@runtime_checkable
class PixelEncoder(Protocol):
    """An image encoder that also takes prepared pixels, so that crops can be cut in batches on its device."""

    @property
    def pixels(self) -> PixelSettings:
        """Say how it wants its pixels.

        Returns:
            The settings.
        """
        ...

    @property
    def device(self) -> torch.device:
        """Say where it runs.

        Returns:
            The device.
        """
        ...

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Embed prepared images, without a gradient.

        Args:
            pixels: (n, 3, H, W), float32, normalised, on the device of the encoder.

        Returns:
            Embeddings (n, D), float32, on that device.
        """
        ...


def unread_texts(encoder: TextEncoder, texts: Sequence[str]) -> list[str]:
    """Find texts that an encoder cannot read, such as emoji that its tokenizer does not know.

    Args:
        encoder: the encoder, also within a cache; one that has no method ``unread`` can read everything.
        texts: n texts.

    Returns:
        Those texts.
    """
    inner: Any = encoder
    while hasattr(inner, "encoder"):
        inner = inner.encoder
    return inner.unread(texts) if hasattr(inner, "unread") else []


def batches(items: Sequence[Item], size: int, what: str = "sentence") -> Iterator[list[Item]]:
    """Cut a list into batches.

    Args:
        items: the list; a single text is refused, its letters are no sentences.
        size: largest length of a batch.
        what: what an item is called in the error.

    Yields:
        The batches.
    """
    check_items(items, what)
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def check_items(items: Sequence[Any], what: str = "sentence") -> None:
    """Check that there is something to encode.

    Args:
        items: the list.
        what: what an item is called in the error.

    Raises:
        ValueError: if the list is empty or a text.
    """
    if isinstance(items, str) or not len(items):
        raise ValueError(f"encode needs a list of at least one {what}, got {items!r}")


def require(module: str, package: str, who: str) -> None:
    """Check that an optional package is installed.

    Args:
        module: the module to import.
        package: what to install.
        who: what needs it.

    Raises:
        ImportError: if it is not installed; the message says how to get it.
    """
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{who} needs the package {module}: python -m pip install {package}")


def hash_files(files: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """Hash the contents of files together with settings.

    Args:
        files: files in a fixed order; their names do not count.
        settings: values that JSON can write.

    Returns:
        The hash, hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:FINGERPRINT_LENGTH]


def hash_tensors(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """Hash named tensors together with settings; in which file format they were stored does not count.

    Args:
        tensors: name to a tensor of any shape, (...,).
        settings: values that JSON can write.

    Returns:
        The hash, hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.reshape(-1).float().numpy().tobytes() if values.numel() else b"")
    return digest.hexdigest()[:FINGERPRINT_LENGTH]

"""CLIP models of the package open_clip, the text side and the image side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..suggestions import did_you_mean
from .base import PixelSettings, batches, hash_tensors, require
from .context import ContextTower

MAX_ASPECT = 8  # an image that is longer is cut to its middle before it is resized; the model sees only the middle


def load_open_clip(architecture: str, pretrained: str | Path, device: torch.device | str = "cpu") -> tuple[Any, str]:
    """Load a model of the package open_clip.

    Args:
        architecture: name that open_clip knows, such as "ViT-B-32", or a JSON file with such a model's config.
        pretrained: a checkpoint file, or one of open_clip's tags for this architecture, which downloads.
        device: device to run on.

    Returns:
        The model, frozen and in evaluation mode, and the name of its architecture.

    Raises:
        ImportError: if open_clip is not installed.
        ValueError: if the architecture or the tag does not exist, or the checkpoint does not fit.
    """
    require("open_clip", "open_clip_torch", "an encoder open_clip:...")
    import open_clip

    if Path(architecture).suffix == ".json":
        if not Path(architecture).is_file():
            raise ValueError(f"open_clip architecture file {architecture} does not exist")
        open_clip.add_model_config(Path(architecture))
        architecture = Path(architecture).stem
    if architecture not in open_clip.list_models():
        known = open_clip.list_models()
        raise ValueError(f"open_clip has no architecture {architecture!r}{did_you_mean(architecture, known)}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not Path(pretrained).is_file() and str(pretrained) not in tags:
        raise ValueError(
            f"{pretrained} is neither a checkpoint file nor a tag of {architecture}"
            f"{did_you_mean(str(pretrained), tags, show_all=30)}"
        )
    try:
        model = open_clip.create_model(architecture, pretrained=str(pretrained), device=device)
    except RuntimeError as error:
        trouble = "does not fit" if Path(pretrained).is_file() else "could not be downloaded for"
        raise ValueError(f"checkpoint {pretrained} {trouble} {architecture}: {error}") from error
    return model.eval().requires_grad_(False), architecture


class _OpenClipSide:
    """What both sides have: a model of open_clip, where it runs, and how many inputs it takes at a time.

    Args:
        architecture: as for :func:`load_open_clip`.
        pretrained: as for :func:`load_open_clip`.
        device: device to run on.
        batch_size: sentences or images at a time; None: what suits the side.
    """

    usual_batch_size: int

    def __init__(
        self,
        architecture: str,
        pretrained: str | Path,
        device: torch.device | str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        self._model, self._architecture = load_open_clip(architecture, pretrained, device)
        self._device = device
        self._batch_size = batch_size or self.usual_batch_size

    @cached_property
    def _tokenize(self) -> Any:
        import open_clip

        return open_clip.get_tokenizer(self._architecture)

    @cached_property
    def _text_fingerprint(self) -> str:
        weights = {n: t for n, t in self._model.state_dict().items() if not n.startswith("visual.")}
        return hash_tensors(weights, {"kind": "open_clip text", "tokenizer": _tokenizer_settings(self._tokenize)})


class OpenClipTextEncoder(_OpenClipSide):
    """The text side of a CLIP model of the package open_clip."""

    usual_batch_size = 256

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the text side's weights and of the tokenizer.

        Returns:
            Hexadecimal digits.
        """
        return self._text_fingerprint

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed sentences.

        Args:
            texts: n sentences; what exceeds the context length is cut off.

        Returns:
            Embeddings (n, D), float32, on the CPU, not normalised, as the published CLIP tables are.
        """
        rows = [
            encode_tokens(self._model, self._tokenize(batch).to(self._device))
            for batch in batches(texts, self._batch_size)
        ]
        return torch.cat(rows).float().cpu()

    def context_tower(self) -> ContextTower:
        """Give the text side as a module whose first tokens can be replaced by vectors.

        Returns:
            The module; it shares the weights of the encoder.
        """
        return ContextTower(
            self._model,
            find_token_embedding(self._model),
            tokenize=lambda texts: {"text": self._tokenize(texts)},
            run=lambda model, tokens: encode_tokens(model, tokens["text"]),
        )


class OpenClipImageEncoder(_OpenClipSide):
    """The image side of a CLIP model of the package open_clip, with that model's own preprocessing."""

    usual_batch_size = 64

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return dict(self._model.visual.preprocess_cfg)

    @cached_property
    def _preprocess(self) -> Any:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        return image_transform_v2(PreprocessCfg(**self._settings), is_train=False)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the image side's weights and of the preprocessing.

        Returns:
            Hexadecimal digits.
        """
        settings = {name: str(value) for name, value in self._settings.items()}
        return hash_tensors(self._model.visual.state_dict(), {"kind": "open_clip image", "preprocess": settings})

    @property
    def text_fingerprint(self) -> str:
        """Say which text encoder shares the space of these embeddings.

        Returns:
            The fingerprint of :class:`OpenClipTextEncoder` of the same model.
        """
        return self._text_fingerprint

    @torch.no_grad()
    def encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Embed images.

        Args:
            images: n images (H, W, 3), uint8, RGB, of any size.

        Returns:
            Embeddings (n, D), float32, on the CPU, not normalised.

        Raises:
            ValueError: if there is no image, or one is no such array.
        """
        rows = []
        for batch in batches(images, self._batch_size, "image"):
            pixels = torch.stack([self._prepare(image) for image in batch]).to(self._device)
            rows.append(self._model.encode_image(pixels))
        return torch.cat(rows).float().cpu()

    @property
    def pixels(self) -> PixelSettings:
        """Say how the model wants its pixels.

        Returns:
            The settings of its own preprocessing.
        """
        given = self._settings
        size = given["size"]
        side = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        return PixelSettings(
            side, tuple(given["mean"]), tuple(given["std"]), given["interpolation"], given["resize_mode"]
        )

    @property
    def device(self) -> torch.device:
        """Say where the model runs.

        Returns:
            The device.
        """
        return torch.device(self._device)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Embed prepared images.

        Args:
            pixels: (n, 3, H, W), float32, normalised, on the device of the model.

        Returns:
            Embeddings (n, D), float32, on that device, not normalised.
        """
        return self._model.encode_image(pixels).float()

    def _prepare(self, image: np.ndarray) -> Tensor:
        from PIL import Image

        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"OpenClipImageEncoder takes RGB images (height, width, 3) of uint8, got an array of shape "
                f"{image.shape} and type {image.dtype}"
            )
        return self._preprocess(Image.fromarray(_cut_long_side(image)))


class _TextSide(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def encode_tokens(model: Any, tokens: Tensor) -> Tensor:
    """Run the text side, without the padding behind the longest sentence where the padding cannot matter.

    CLIP's text side is causal and reads the result where the sentence ends: what is behind changes nothing, but is
    most of the work (a prompt has some 10 of 77 tokens).

    Args:
        model: a model of open_clip.
        tokens: (n, length) int64 token numbers.

    Returns:
        Embeddings (n, D).
    """
    causal = type(model).__name__ == "CLIP" and getattr(model, "attn_mask", None) is not None
    if not causal or getattr(model, "text_pool_type", "") not in ("argmax", "eos"):
        return model.encode_text(tokens)
    ends = tokens if model.text_pool_type == "argmax" else (tokens == model.text_eos_id).int()
    length = int(ends.argmax(1).max()) + 1
    short = {
        "model.positional_embedding": model.positional_embedding[:length],
        "model.attn_mask": model.attn_mask[:length, :length],
    }
    return torch.func.functional_call(_TextSide(model), short, (tokens[:, :length],))


def find_token_embedding(model: Any) -> torch.nn.Module:
    """Find the layer of a CLIP model that turns token numbers into vectors.

    Args:
        model: a model of open_clip.

    Returns:
        The layer.

    Raises:
        ValueError: if the model's text side has no such layer.
    """
    for owner in (model, getattr(model, "text", None)):
        layer = getattr(owner, "token_embedding", None)
        if layer is not None:
            return layer
    inner: Any = getattr(getattr(model, "text", None), "transformer", None)  # a wrapped Hugging Face model
    if hasattr(inner, "get_input_embeddings"):
        return inner.get_input_embeddings()
    raise ValueError(f"the text side of {type(model).__name__} has no token embedding that a context could enter")


def _tokenizer_settings(tokenizer: Any) -> dict[str, str]:
    settings = {"class": type(tokenizer).__name__}
    for name in ("context_length", "vocab_size", "clean_fn", "reduction_fn"):
        value = getattr(tokenizer, name, None)
        settings[name] = getattr(value, "__name__", str(value))
    return settings


def _cut_long_side(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    longest = MAX_ASPECT * min(height, width)
    top, left = max(0, (height - longest) // 2), max(0, (width - longest) // 2)
    return np.ascontiguousarray(image[top : top + longest, left : left + longest])

"""Text encoders: models that turn sentences into embeddings; weights are local files unless a tag is asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .suggestions import did_you_mean


class TextEncoder(Protocol):
    """What everything that makes text embeddings offers."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed sentences.

        Args:
            texts: n sentences.

        Returns:
            Embeddings (n, D), float32, on the CPU.
        """
        ...


class OpenClipTextEncoder:
    """The text side of a CLIP model of the package open_clip.

    Args:
        architecture: name that open_clip knows, such as "ViT-B-32", or a JSON file with such a model's config.
        pretrained: a checkpoint file, or one of open_clip's tags for this architecture, which downloads.
        device: device to run on.
        batch_size: sentences at a time.

    Raises:
        ImportError: if open_clip is not installed.
        ValueError: if the architecture or the tag does not exist, or the checkpoint does not fit.
    """

    def __init__(
        self, architecture: str, pretrained: str | Path, device: torch.device | str = "cpu", batch_size: int = 256
    ) -> None:
        _require("open_clip", "open_clip_torch", "OpenClipTextEncoder")
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
            self._model = open_clip.create_model(architecture, pretrained=str(pretrained), device=device)
        except RuntimeError as error:
            trouble = "does not fit" if Path(pretrained).is_file() else "could not be downloaded for"
            raise ValueError(f"checkpoint {pretrained} {trouble} {architecture}: {error}") from error
        self._model.eval()
        self._tokenize = open_clip.get_tokenizer(architecture)
        self._device = device
        self._batch_size = batch_size

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed sentences.

        Args:
            texts: n sentences; what exceeds the context length is cut off.

        Returns:
            Embeddings (n, D), float32, on the CPU, not normalised, as the published CLIP tables are.
        """
        rows = [
            self._model.encode_text(self._tokenize(batch).to(self._device))
            for batch in _batches(texts, self._batch_size)
        ]
        return torch.cat(rows).float().cpu()


class HuggingFaceTextEncoder:
    """A sentence encoder of the package transformers, from a local folder; mean over the tokens, then length 1.

    Source: mean pooling as in Sentence-BERT, Reimers and Gurevych 2019, arXiv 1908.10084, section 3.

    Args:
        folder: folder with ``config.json``, the tokenizer's files and ``model.safetensors``; nothing is downloaded and
            no code from the folder is run.
        device: device to run on.
        batch_size: sentences at a time.
        max_length: longest sentence in tokens; the rest is cut off.

    Raises:
        ImportError: if transformers is not installed.
        FileNotFoundError: if the folder is not a model's.
    """

    def __init__(
        self,
        folder: str | Path,
        device: torch.device | str = "cpu",
        batch_size: int = 256,
        max_length: int = 256,
    ) -> None:
        _require("transformers", "transformers", "HuggingFaceTextEncoder")
        import transformers

        folder = Path(folder)
        for file in ("config.json", "model.safetensors"):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{folder} is no folder of a Hugging Face model: {file} is not in it")
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        model = transformers.AutoModel.from_pretrained(folder, use_safetensors=True, **options)
        self._model = model.eval().to(device)
        self._device = device
        self._batch_size = batch_size
        self._max_length = max_length

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed sentences.

        Args:
            texts: n sentences.

        Returns:
            Embeddings (n, D), float32, on the CPU, each of length 1.
        """
        return torch.cat([self._encode_batch(batch) for batch in _batches(texts, self._batch_size)])

    def _encode_batch(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self._device)
        states = self._model(**tokens).last_hidden_state  # (n, length, D)
        used = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
        mean = (states * used).sum(1) / used.sum(1)
        return torch.nn.functional.normalize(mean, dim=1).float().cpu()


def build_text_encoder(description: str, device: torch.device | str = "cpu") -> TextEncoder:
    """Build an encoder from one text, as the command line gives it.

    Args:
        description: ``open_clip:ARCHITECTURE:CHECKPOINT_OR_TAG`` or ``huggingface:FOLDER``.
        device: device to run on.

    Returns:
        The encoder.

    Raises:
        ValueError: if the text has another form.
    """
    kind, _, rest = description.partition(":")
    if kind == "huggingface" and rest:
        return HuggingFaceTextEncoder(rest, device)
    architecture, _, pretrained = rest.partition(":")
    if kind == "open_clip" and architecture and pretrained:
        return OpenClipTextEncoder(architecture, pretrained, device)
    raise ValueError(f"encoder {description!r}: write open_clip:ARCHITECTURE:CHECKPOINT_OR_TAG or huggingface:FOLDER")


def _batches(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    if isinstance(texts, str) or not texts:
        raise ValueError(f"encode needs a list of at least one sentence, got {texts!r}")
    for start in range(0, len(texts), size):
        yield list(texts[start : start + size])


def _require(module: str, package: str, who: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{who} needs the package {package}: python -m pip install {package}")

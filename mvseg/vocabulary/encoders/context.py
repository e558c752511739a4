"""A frozen text model whose first tokens are replaced by given vectors, with gradients to these vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

PLACEHOLDER = "x"  # a word that every tokenizer turns into one token


class ContextTower:
    """Embed words behind M vectors that stand where M tokens of a sentence would.

    The vectors replace the output of the token embedding layer, so that positions, masks, special tokens and pooling
    are those of the model for a sentence of that length.

    Source: Zhou et al. 2022, "Learning to Prompt for Vision-Language Models" (arXiv 2109.01134), equation 2, with the
    class token at the end.

    Args:
        model: the model; it is frozen and kept in evaluation mode.
        token_embedding: its layer that turns token numbers into vectors.
        tokenize: n sentences to named tensors (n, length) of the model's input; the first one holds token numbers.
        run: the model and these tensors to embeddings (n, D).

    Raises:
        ValueError: if the tokenizer does not turn the word "x" into one token.
    """

    def __init__(
        self,
        model: nn.Module,
        token_embedding: nn.Module,
        tokenize: Callable[[list[str]], Mapping[str, Tensor]],
        run: Callable[[Any, dict[str, Tensor]], Tensor],
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self._layer = token_embedding
        self._tokenize = tokenize
        self._run = run
        ids = self._ids(f"{PLACEHOLDER} {PLACEHOLDER}").tolist()
        pairs = [i for i in range(len(ids) - 1) if ids[i] == ids[i + 1]]
        if not pairs or ids[pairs[0]] in self._ids("").tolist():
            raise ValueError(f"this tokenizer does not turn the word {PLACEHOLDER!r} into one token: {ids}")
        self._first, self._placeholder = pairs[0], ids[pairs[0]]

    @property
    def width(self) -> int:
        """Length of a token's vector.

        Returns:
            The length.
        """
        weight: Any = self._layer.weight
        return weight.shape[1]

    @torch.no_grad()
    def vectors(self, text: str) -> Tensor:
        """Look up the vectors of a text's tokens, without the special ones.

        Args:
            text: some words.

        Returns:
            Vectors (M, width), float32, on the CPU.
        """
        # The text ends where a placeholder behind it begins.
        ids = self._ids(f"{text} {PLACEHOLDER}")
        ends = (ids == self._placeholder).nonzero().flatten()
        tokens = ids[self._first : int(ends[-1])]
        device = next(self._layer.parameters()).device
        return self._layer(tokens.to(device)).float().cpu()

    def encode(self, texts: Sequence[str], context: Tensor) -> Tensor:
        """Embed words behind the context.

        Args:
            texts: n words or names, with what follows them.
            context: (M, width) vectors.

        Returns:
            Embeddings (n, D) of the model's precision, on the device of the context; gradients flow to the context.

        Raises:
            ValueError: if the context leaves no room for a word.
        """
        count = len(context)
        sentences = [" ".join([PLACEHOLDER] * count + [text]) for text in texts]
        tokens = {name: values.to(context.device) for name, values in self._tokenize(sentences).items()}
        ids = next(iter(tokens.values()))
        if ids.shape[1] < self._first + count + 2 or not bool(
            (ids[:, self._first : self._first + count] == self._placeholder).all()
        ):
            raise ValueError(f"a context of {count} tokens leaves no room for a word in this text model")
        end = self._first + count

        def put(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            middle = context.to(output.dtype).expand(len(output), -1, -1)
            return torch.cat([output[:, : self._first], middle, output[:, end:]], dim=1)

        handle = self._layer.register_forward_hook(put)
        try:
            return self._run(self.model, tokens)
        finally:
            handle.remove()

    def _ids(self, text: str) -> Tensor:
        return next(iter(self._tokenize([text]).values()))[0].cpu()

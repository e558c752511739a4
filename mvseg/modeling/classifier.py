"""Region features to class logits: cosine to text embeddings of any vocabulary, or a plain closed-set layer.

Both classifiers compute only the label columns that are asked for, and both can be pointed at another vocabulary for
testing while the columns of training stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvseg.modeling.precision import at_least_float32
from mvseg.modeling.prompt_context import PromptContext


class TextRows(nn.Module):
    """The text rows of the columns of training and of the words of a test, not stored in checkpoints.

    The stages of a cascade have one together: 22,000 rows of 512 numbers are 45 MB.
    """

    training_rows: Tensor
    test_rows: Tensor | None

    def __init__(self, rows: Tensor) -> None:
        """Keep the rows of training.

        Args:
            rows: (n, D) float.
        """
        super().__init__()
        self.register_buffer("training_rows", rows, persistent=False)
        self.register_buffer("test_rows", None, persistent=False)


class TextClassifier(nn.Module):
    """Score regions by the scaled cosine between their projected feature and the text embedding of every word."""

    context: PromptContext | None

    def __init__(
        self,
        input_size: int,
        embeddings: Tensor | PromptContext,
        *,
        temperature: float = 50.0,
        normalize: bool = True,
        bias: float | None = None,
        background: bool = False,
        projection: bool = True,
        learned_background: bool = False,
        test_temperature: float | None = None,
    ) -> None:
        """Build the classifier.

        Args:
            input_size: length of a region feature.
            embeddings: (n, D) float text embeddings, one row per label column; not trained, not stored in checkpoints.
                Or a learnable context that makes them; it belongs to whoever built it and is not stored here.
            temperature: factor on the cosine; unused if not normalised.
            normalize: L2-normalise the projected features and the text rows.
            bias: initial value of one learnable scalar added to all logits; None for no bias.
            background: append a column for "no object" whose text row is zero, so that its logit is the bias or 0.
            projection: features go through a linear layer to the width of the text; False: they have it already.
            learned_background: the row of the background column, if there is one, is learnt.
            test_temperature: factor on the cosine in the evaluation mode; None: the same as in training.

        Raises:
            ValueError: if features that are not projected have another width than the text.

        Source: Zhou et al. 2022, "Detecting Twenty-thousand Classes using Image-level Supervision" (arXiv 2201.02605),
        section 5.1.
        """
        super().__init__()
        context = embeddings if isinstance(embeddings, PromptContext) else None
        fixed = torch.zeros(0, embeddings.width) if isinstance(embeddings, PromptContext) else embeddings
        self.__dict__["context"] = context  # several stages share it: registered once, by its owner
        if not projection and input_size != fixed.shape[1]:
            raise ValueError(
                f"region features are {input_size} wide, text embeddings {fixed.shape[1]}: MODEL.CLASSIFIER.PROJECTION "
                "False compares them as they are, so take the text side of the same CLIP model, or set it to True"
            )
        self.linear = nn.Linear(input_size, fixed.shape[1]) if projection else nn.Identity()
        self.temperature = temperature
        self.test_temperature = temperature if test_temperature is None else test_temperature
        self.normalize = normalize
        self.background = background
        learnt = background and learned_background
        self.background_row = nn.Parameter(0.01 * torch.randn(1, fixed.shape[1])) if learnt else None
        self.cls_bias = None if bias is None else nn.Parameter(torch.full((1,), float(bias)))
        self.text = TextRows(self._prepare(fixed))

    @property
    def rows(self) -> Tensor:
        """Give the text rows of the columns of training.

        Returns:
            (n, D) float.

        Source: none, a stored table.
        """
        return self.text.training_rows

    def share_rows(self, other: TextClassifier) -> None:
        """Use the text rows of another classifier, also those of its later tests, instead of a copy.

        Args:
            other: a classifier of the same words and settings, such as that of another stage.

        Source: our own derivation; the rows are the same.
        """
        self.text = other.text

    @property
    def num_columns(self) -> int:
        """Number of label columns in the present mode (training: label space; test: vocabulary that was set)."""
        return len(self._rows()) if self.context is None else self.context.num_columns

    def set_test_rows(self, embeddings: Tensor | None) -> None:
        """Choose the words of the evaluation mode.

        Args:
            embeddings: (m, D) float text embeddings; None returns to the columns of training.

        Raises:
            ValueError: if the width is not that of the training embeddings, or a learnable context makes the rows.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 3.
        """
        if self.context is not None and embeddings is not None:
            raise ValueError("this classifier makes its text rows with a learnable context: set the words of that")
        if embeddings is None:
            self.text.test_rows = None
            return
        if embeddings.ndim != 2 or embeddings.shape[1] != self.rows.shape[1]:
            raise ValueError(
                f"text embeddings of shape {tuple(embeddings.shape)}, but this model's text rows are "
                f"{self.rows.shape[1]} wide: embed the words with the encoder that it was trained with"
            )
        self.text.test_rows = self._prepare(embeddings).to(self.rows.device)

    def forward(self, features: Tensor, columns: Tensor | None = None, embeddings: Tensor | None = None) -> Tensor:
        """Compute logits in float32, also under autocast: bfloat16 cannot hold 50 * cosine to better than 0.1.

        Args:
            features: (R, input_size) float region features.
            columns: (k,) int64 label columns to compute, in this order; None computes all n.
            embeddings: (m, D) float rows to use instead of the classifier's own.

        Returns:
            (R, k) float32 logits, with one more column at the end for the background if there is one.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.1: logit = temperature * cos(W x, text).
        """
        rows = self._text(columns, embeddings)
        hidden = self.linear(features)
        with torch.autocast(features.device.type, enabled=False):
            if self.background:
                rows = torch.cat([rows, self._background(rows)])
            logits = self._products(hidden, rows)
            return logits if self.cls_bias is None else logits + self.cls_bias

    def text_rows(self) -> Tensor:
        """Give the text rows of the evaluation mode, whatever the present mode is.

        Returns:
            (m, D) float32, normalised if the classifier does so.

        Raises:
            ValueError: if a learnable context makes them anew in every step.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 3.
        """
        if self.context is not None:
            raise ValueError("the text rows are made by a learnable context: MODEL.CLASSIFIER.CONTEXT_LENGTH")
        return self.rows if self.text.test_rows is None else self.text.test_rows

    def embed(self, features: Tensor) -> Tensor:
        """Project region features into the space of the text.

        Args:
            features: (R, input_size) float region features.

        Returns:
            (R, D) float32 region embeddings, not normalised.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.1.
        """
        return at_least_float32(self.linear(features))

    def logits_of_embeddings(self, embeddings: Tensor, columns: Tensor | None = None) -> Tensor:
        """Compare region embeddings of any origin with the text, as ``forward`` does with projected features.

        Args:
            embeddings: (R, D) float region embeddings.
            columns: (k,) int64 label columns to compute, in this order; None computes all n.

        Returns:
            (R, k) float32 logits, without bias and without a column for the background.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.1.
        """
        rows = self._text(columns, None)
        with torch.autocast(embeddings.device.type, enabled=False):
            return self._products(embeddings, rows)

    def _products(self, hidden: Tensor, rows: Tensor) -> Tensor:
        hidden = at_least_float32(hidden)
        if self.normalize:
            hidden = self._factor() * F.normalize(hidden, dim=1)
        return hidden @ rows.t().to(hidden.dtype)

    def _factor(self) -> float:
        return self.temperature if self.training else self.test_temperature

    def _text(self, columns: Tensor | None, embeddings: Tensor | None) -> Tensor:
        """Text rows (k, D) of the columns, or of other embeddings."""
        if embeddings is None and self.context is not None:
            rows = self.context(columns)
            return F.normalize(rows, dim=1) if self.normalize else rows
        rows = self._rows() if embeddings is None else self._prepare(embeddings)
        return rows if columns is None else rows[columns]

    def _background(self, rows: Tensor) -> Tensor:
        """The row (1, D) of the background."""
        if self.background_row is None:
            return rows.new_zeros((1, rows.shape[1]))
        row = self.background_row.to(rows.dtype)
        return F.normalize(row, dim=1) if self.normalize else row

    def cosines(self, features: Tensor, columns: Tensor | None = None) -> Tensor:
        """Compute the cosines that the logits are made of, for losses that compare them; ``logits_of`` goes on.

        Args:
            features: (R, input_size) float region features.
            columns: (k,) int64 label columns to compute, in this order; None computes all n.

        Returns:
            (R, k) float32, without a column for the background.

        Raises:
            ValueError: if the logits are no scaled cosines, or a learnable context makes the rows.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.1.
        """
        rows = self._fixed_units()
        hidden = self.linear(features)
        with torch.autocast(features.device.type, enabled=False):
            hidden = F.normalize(at_least_float32(hidden), dim=1)
            return hidden @ (rows if columns is None else rows[columns]).t().to(hidden.dtype)

    def logits_of(self, cosines: Tensor) -> Tensor:
        """Turn cosines into logits.

        Args:
            cosines: (R, k) float cosines from ``cosines``.

        Returns:
            (R, k) float temperature * cosines + bias, the logits of ``forward`` for the same columns.

        Source: Zhou et al. 2022 (arXiv 2201.02605), section 5.1.
        """
        logits = self._factor() * cosines
        return logits if self.cls_bias is None else logits + self.cls_bias

    def word_cosines(self, words: Tensor, columns: Tensor | None = None) -> Tensor:
        """Compare words with each other: rows of the label-to-label similarity, made when they are needed.

        Args:
            words: (P,) int64 label columns.
            columns: (k,) int64 label columns to compare with; None means all n.

        Returns:
            (P, k) float32 cosines of the text embeddings, in [-1, 1], without a gradient.

        Raises:
            ValueError: if the text rows are not normalised, or a learnable context makes them.

        Source: our own derivation.
        """
        rows = self._fixed_units()
        with torch.autocast(rows.device.type, enabled=False):
            return (rows[words] @ (rows if columns is None else rows[columns]).t()).clamp_(-1, 1)

    def _fixed_units(self) -> Tensor:
        if not self.normalize or self.context is not None:
            raise ValueError(
                "cosines are compared with fixed text embeddings: set MODEL.CLASSIFIER.NORMALIZE True and "
                "CONTEXT_LENGTH 0"
            )
        return self._rows()

    def _rows(self) -> Tensor:
        return self.rows if self.training or self.text.test_rows is None else self.text.test_rows

    def _prepare(self, embeddings: Tensor) -> Tensor:
        embeddings = embeddings.detach().float()
        return F.normalize(embeddings, dim=1) if self.normalize else embeddings


class LinearClassifier(nn.Linear):
    """One learned row per class and one for the background, named and laid out as Detectron2's ``cls_score``.

    Some losses need further rows behind that of the background.
    """

    test_columns: Tensor | None
    test_words: Tensor | None

    def __init__(
        self,
        input_size: int,
        num_classes: int,
        *,
        prior_prob: float | None = None,
        background: bool = True,
        further: int = 0,
    ) -> None:
        """Build the classifier.

        Args:
            input_size: length of a region feature.
            num_classes: number n of label columns; the layer has n + 1 rows.
            prior_prob: initial probability of every class under a sigmoid; None leaves the bias at 0.
            background: return the background column.
            further: number of rows behind the background's; their columns are returned with that of the background.

        Source: Lin et al. 2017, focal loss (arXiv 1708.02002), section 4.1, for the prior.
        """
        super().__init__(input_size, num_classes + 1 + further)
        self.num_classes = num_classes
        nn.init.normal_(self.weight, std=0.01)
        nn.init.constant_(self.bias, 0.0 if prior_prob is None else -math.log((1 - prior_prob) / prior_prob))
        self.background = background
        self.num_test_words = 0
        self.register_buffer("test_columns", None, persistent=False)
        self.register_buffer("test_words", None, persistent=False)  # the word of each of the test columns

    @property
    def num_columns(self) -> int:
        """Number of label columns in the present mode (training: all classes; test: the words that were set)."""
        return self.num_classes if self.training or self.test_columns is None else self.num_test_words

    def set_test_columns(self, columns: Tensor | Sequence[Tensor] | None) -> None:
        """Choose the words of the evaluation mode.

        Args:
            columns: (m,) int64 label columns, in the order of the test vocabulary; or for each of its m words (k,)
                int64 label columns: its logit is the mean of theirs, and without a column the word is never found;
                None returns to all label columns.

        Source: Zhou et al. 2022, UniDet (arXiv 2102.13086), the heads merged at test in its released code.
        """
        if columns is None:
            self.test_columns = self.test_words = None
            return
        groups = list(columns.view(-1, 1) if isinstance(columns, Tensor) else columns)
        counts = torch.tensor([len(group) for group in groups], dtype=torch.long)
        self.num_test_words = len(groups)
        device = self.weight.device
        self.test_columns = torch.cat([counts[:0], *groups]).to(device)
        self.test_words = None if bool((counts == 1).all()) else torch.arange(len(groups)).repeat_interleave(counts)
        self.test_words = None if self.test_words is None else self.test_words.to(device)

    def forward(self, features: Tensor, columns: Tensor | None = None) -> Tensor:
        """Compute logits.

        Args:
            features: (R, input_size) float region features.
            columns: (k,) int64 label columns to compute, in this order; None computes all.

        Returns:
            (R, k) logits, with one more column at the end for the background if there is one, and the further ones.

        Source: an affine map; the mean of several is the map of the mean rows.
        """
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if not self.training and self.test_columns is not None:
            if self.test_words is None:
                columns = self.test_columns if columns is None else self.test_columns[columns]
            else:
                weight, bias = self._rows_of_test_words()
        behind = len(bias) - (self.out_features - self.num_classes)  # the first row that is no word's
        if columns is None:
            logits = F.linear(features, weight, bias)
            return logits if self.background else logits[:, :behind]
        if self.background:
            columns = torch.cat([columns, torch.arange(behind, len(bias), device=columns.device)])
        return F.linear(features, weight[columns], bias[columns])

    def _rows_of_test_words(self) -> tuple[Tensor, Tensor]:
        """Rows (m + 1, input_size) and biases (m + 1,) of the words, means over their columns; then all others."""
        assert self.test_columns is not None and self.test_words is not None
        counts = self.test_words.bincount(minlength=self.num_test_words)
        table = torch.cat([self.weight, self.bias[:, None]], 1)
        means = table.new_zeros((self.num_test_words, table.shape[1]))
        means.index_add_(0, self.test_words, table[self.test_columns])
        means /= counts.clamp(min=1)[:, None]
        means[counts == 0, -1] = -torch.inf
        means = torch.cat([means, table[self.num_classes :]])
        return means[:, :-1], means[:, -1]


Classifier = TextClassifier | LinearClassifier

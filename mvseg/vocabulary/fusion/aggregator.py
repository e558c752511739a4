"""A transformer that turns the embeddings of a class's examples into one row of the classifier."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

_KEY = "mvseg"
_RELEASED = "mapper."  # how the names of the authors' weights begin


@dataclass(frozen=True)
class AggregatorFacts:
    """What a file of an aggregator says beside its weights.

    Args:
        width: D, the width of the embeddings.
        layers: number of transformer layers.
        heads: number of attention heads.
        image_encoder: the image encoder whose embeddings it was trained on; "": not known.
        image_fingerprint: the content hash of that encoder; "": not known.
        average: whether it reads embeddings as they are ("raw") or at length 1 ("normalized").
    """

    width: int
    layers: int = 4
    heads: int = 8
    image_encoder: str = ""
    image_fingerprint: str = ""
    average: str = "raw"


class ExampleAggregator(nn.Module):
    """A linear layer, a learned token behind the examples, and pre-norm transformer layers; the token is the row.

    Nothing tells it the order of the examples, and their number may vary.

    Source: the visual aggregator of Kaul, Xie and Zisserman 2023, arXiv 2306.05493.
    """

    def __init__(self, width: int, layers: int = 4, heads: int = 8) -> None:
        """Build the aggregator with random weights.

        Args:
            width: D, the width of the embeddings.
            layers: number of transformer layers.
            heads: number of attention heads.

        Raises:
            ValueError: if the width cannot be divided among the heads.
        """
        super().__init__()
        if width % heads:
            raise ValueError(
                f"an aggregator of width {width} cannot have {heads} heads: {width} / {heads} is not whole"
            )
        self.width, self.heads = width, heads
        self.linear = nn.Linear(width, width)
        self.token = nn.Parameter(torch.randn(1, width))
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))

    def forward(self, examples: Tensor, present: Tensor | None = None) -> Tensor:
        """Make one row of the examples of each class.

        Args:
            examples: (B, K, D) float embeddings.
            present: (B, K) bool, False where a class has fewer examples; None: all count.

        Returns:
            Rows (B, D), not normalised.
        """
        batch = len(examples)
        tokens = torch.cat([self.linear(examples), self.token.expand(batch, 1, -1)], dim=1)
        mask = None
        if present is not None:
            mask = F.pad(present, (0, 1), value=True)[:, None, None, :]
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return tokens[:, -1]


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.queries = nn.Linear(width, width, bias=False)
        self.keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.norm1(tokens)
        parts = (self.queries(normed), *self.keys_values(normed).chunk(2, dim=-1))
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        tokens = tokens + self.project(attended.transpose(1, 2).flatten(2))
        return tokens + self.fc2(F.relu(self.fc1(self.norm2(tokens))))


def save_aggregator(path: str | Path, model: ExampleAggregator, facts: AggregatorFacts) -> None:
    """Write an aggregator, whole or not at all.

    Args:
        path: file ending in .safetensors.
        model: the aggregator.
        facts: what it was trained on.
    """
    from safetensors.torch import save_file

    check_aggregator_ending(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        save_file(weights, temporary, metadata={_KEY: json.dumps(asdict(facts))})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_aggregator_ending(path: str | Path) -> None:
    """Check that a file to write has the ending of an aggregator's.

    Args:
        path: the file to write.

    Raises:
        ValueError: if it has another ending.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path}: the file of an aggregator ends in .safetensors")


def load_aggregator(path: str | Path) -> tuple[ExampleAggregator, AggregatorFacts]:
    """Read an aggregator.

    Args:
        path: ``.safetensors`` as :func:`save_aggregator` writes it, or the authors' released ``.pth``, which does not
            say what it was trained on.

    Returns:
        The aggregator in evaluation mode, and what its file says.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it holds no aggregator.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"aggregator file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            weights, facts = _read_own(path)
        else:
            tree = torch.load(path, map_location="cpu", weights_only=True)
            weights = _rename_released(tree.get("state_dict", tree))
            layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
            facts = AggregatorFacts(width=weights["linear.weight"].shape[0], layers=layers)
        model = ExampleAggregator(facts.width, facts.layers, facts.heads)
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except Exception as error:  # pickles, zip files and JSON answer broken bytes with whatever went wrong inside
        raise ValueError(f"aggregator file {path} holds no aggregator: {error}") from error
    return model.eval(), facts


def _read_own(path: Path) -> tuple[dict[str, Tensor], AggregatorFacts]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, framework="pt") as file:
        said: dict[str, Any] = json.loads((file.metadata() or {}).get(_KEY, "{}"))
    if "width" not in said:
        raise SafetensorError("it does not say its width")
    return load_file(path), AggregatorFacts(**said)


def _rename_released(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' parameter names in ours."""
    names = {"attn.to_queries": "queries", "attn.to_keys_values": "keys_values", "attn.project": "project"}
    names |= {"mlp.fc1": "fc1", "mlp.fc2": "fc2", "transformer.layers": "layers", "cls_token": "token"}
    found = {}
    for name, tensor in weights.items():
        short = name.removeprefix(_RELEASED)
        for theirs, ours in names.items():
            short = short.replace(theirs, ours)
        found[short] = tensor
    return found


def check_aggregator(facts: AggregatorFacts, width: int, fingerprint: str, where: str) -> None:
    """Check that an aggregator reads the embeddings of an image encoder.

    Args:
        facts: what its file says.
        width: width of the encoder's embeddings.
        fingerprint: content hash of the encoder.
        where: the aggregator's file, for the error.

    Raises:
        ValueError: if it was trained on another encoder or has another width.
    """
    if facts.width != width:
        raise ValueError(f"aggregator {where} reads embeddings of width {facts.width}, the image encoder gives {width}")
    if facts.image_fingerprint and facts.image_fingerprint != fingerprint:
        raise ValueError(
            f"aggregator {where} was trained on the embeddings of {facts.image_encoder} "
            f"({facts.image_fingerprint[:8]}), not of the image encoder in use ({fingerprint[:8]})"
        )


@torch.no_grad()
def aggregate(model: ExampleAggregator, examples: Tensor, average: str = "raw") -> Tensor:
    """Make the row of one class.

    Args:
        model: the aggregator.
        examples: (m, D) float embeddings of its examples.
        average: whether the aggregator reads them as they are ("raw") or at length 1 ("normalized").

    Returns:
        The row, (D,) float32.
    """
    rows = F.normalize(examples, dim=1) if average == "normalized" else examples
    return model(rows.float()[None])[0]

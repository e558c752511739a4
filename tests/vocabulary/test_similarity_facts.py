"""The numbers of docs/label_spaces.md, computed anew from words of the world and, if present, published CLIP rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mvseg.data.label_spaces import label_space
from mvseg.vocabulary import ImageFacts, LabelSpace, Vocabulary, build_scope

WORLD = ("world_coco_train", "world_lvis_train", "world_o365_train", "world_oid_train")
CLIP = {
    "coco": ("coco_80", "coco"),
    "objects365": ("objects365_365_detic_fix", "objects365"),
    "openimages": ("oid_challenge_500", "oid"),
    "lvis": ("lvis_v0.5_1230", "lvis_v0.5"),
}


@pytest.fixture(scope="module")
def world() -> LabelSpace:
    return label_space(WORLD)


@pytest.fixture(scope="module")
def clip(shared: Path) -> LabelSpace:
    """COCO, Objects365 (with the names as first published), Open Images and LVIS v0.5, CLIP RN50, 81 prompts."""
    with open(shared / "data/labels/Objects365_names_fix.csv") as file:
        first_names = {int(row[0]): row[1] for row in csv.reader(file)}
    vocabularies = {}
    for name, (labels, rows) in CLIP.items():
        categories = json.loads((shared / f"data/labels/{labels}.json").read_text())
        words: list[str] = []
        for category in sorted(categories, key=lambda c: c["id"]):
            word = first_names[category["id"]] if name == "objects365" else category["name"]
            word = word.replace("-", " ")
            words.append(f"{word} (2)" if word in words else word)  # Open Images has two Bench and two Mouse
        table = np.load(shared / f"data/embeddings/{rows}_clip_a+cname_rn50_manyprompt.npy", allow_pickle=False)
        vocabularies[name] = Vocabulary(name, tuple(words)).with_embeddings(torch.from_numpy(table).float())
    return LabelSpace.concatenate(vocabularies)


def off_diagonal(matrix: Tensor) -> np.ndarray:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)].numpy()


def test_published_rows(clip: LabelSpace):
    raw = clip.similarity()
    limits = clip.similarity_limits
    assert clip.n == 2175
    assert (limits.minimum, limits.mean, limits.maximum) == pytest.approx((0.382, 0.718, 1.0), abs=5e-4)
    assert np.quantile(off_diagonal(raw), [0.01, 0.99]) == pytest.approx([0.562, 0.853], abs=5e-4)
    rescaled = off_diagonal(clip.similarity("minmax"))
    assert (rescaled.mean(), np.quantile(rescaled, 0.99)) == pytest.approx((0.543, 0.761), abs=5e-4)
    assert (rescaled > 0.8).mean() == pytest.approx(0.0033, abs=1e-4)
    centered = off_diagonal(clip.similarity("centered"))
    assert (centered.mean(), np.quantile(centered, 0.99)) == pytest.approx((0.087, 0.478), abs=5e-4)
    neighbours = (raw > 0.9).sum(1) - 1
    assert (float(neighbours.float().mean()), int(neighbours.max())) == (pytest.approx(2.75, abs=0.005), 56)


def test_equal_words_have_equal_rows(clip: LabelSpace):
    same = np.array([alias.similarity for alias in clip.aliases() if alias.reason == "name"])
    twice = 5  # the second Bench and Mouse of Open Images, counted with the others by their first names
    assert len(same) + twice == 757
    assert same.min() == pytest.approx(0.931, abs=5e-4)
    assert (np.quantile(same, 0.05), same.mean()) == pytest.approx((0.989, 0.9985), abs=1e-3)
    assert (same < 0.95).sum() == 4  # so a threshold of 0.95 alone would take equal words for different ones
    negative = build_scope("safe", clip).negative
    assert not any(negative[a.first, a.second] for a in clip.aliases())


def test_the_cosine_is_no_ruler_of_meaning(clip: LabelSpace):
    def cosine(dataset: str, word: str, other: str, other_word: str) -> float:
        rows = [clip.columns(d)[clip.vocabularies[d].index(w)] for d, w in ((dataset, word), (other, other_word))]
        return float(clip.similarity_rows(rows[0][None])[0, rows[1]])

    assert cosine("coco", "cat", "coco", "dog") == pytest.approx(0.930, abs=5e-4)
    assert cosine("coco", "couch", "openimages", "Sofa bed") == pytest.approx(0.920, abs=5e-4)
    assert cosine("coco", "person", "coco", "toaster") == pytest.approx(0.765, abs=5e-4)
    assert cosine("openimages", "Footwear", "objects365", "Sneakers") == pytest.approx(0.936, abs=5e-4)


def test_words_of_the_world(world: LabelSpace):
    limits = world.similarity_limits
    assert -0.2 < limits.minimum < 0.1 < limits.mean < 0.4  # MiniLM spreads words wider than CLIP
    same = [alias.similarity for alias in world.aliases() if alias.reason == "name"]
    synonyms = [alias.similarity for alias in world.aliases() if alias.reason == "synonym"]
    assert len(same) > 100 and min(same) > 0.999
    assert len(synonyms) > 10 and min(synonyms) < 0.6  # no threshold finds them all
    assert world.ancestors().sum() > 100


def best_probabilities(rows: Tensor, labels: Tensor, mask: Tensor, steps: int = 250) -> Tensor:
    """Probability (R,) of the own column after free unit vectors, one for each region, have minimised BCE.

    Args:
        rows: (n, D) text embeddings of length 1.
        labels: (R,) column of each region.
        mask: (R, n) columns that count.
    """
    free = torch.randn(len(labels), rows.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=0.05)
    positive = torch.nn.functional.one_hot(labels, len(rows)).float()
    for _ in range(steps):
        logits = 50 * torch.nn.functional.normalize(free, dim=1) @ rows.t() - 4.6
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, positive, reduction="none")
        optimizer.zero_grad()
        ((loss * mask).sum() / len(labels)).backward()
        optimizer.step()
    return logits.detach().sigmoid()[torch.arange(len(labels)), labels]


def learned(space: LabelSpace, dataset: str, labels: Tensor) -> dict[str, Tensor]:
    rows = torch.nn.functional.normalize(space.embeddings, dim=1)
    own = build_scope("own", space).mask([ImageFacts(dataset, labels)] * len(labels))
    masks = {"all": torch.ones_like(own), "own": own, "safe": own | build_scope("safe", space).negative[labels]}
    return {name: best_probabilities(rows, labels, mask) for name, mask in masks.items()}


def shares(space: LabelSpace, labels: Tensor) -> Tensor:
    """1 / (number of vocabularies that have the word), (R,)."""
    equal = [(a.first, a.second) for a in space.aliases() if a.reason == "name"]
    return torch.tensor([1 / (1 + sum(label in pair for pair in equal)) for label in labels.tolist()])


def test_toy_optimum_on_the_words_of_the_world(world: LabelSpace):
    labels = world.columns(WORLD[0])[::4]
    found = learned(world, WORLD[0], labels)
    expected = shares(world, labels)
    assert expected.mean() < 0.5
    assert float(found["all"].mean()) == pytest.approx(float(expected.mean()), abs=0.02)
    assert torch.corrcoef(torch.stack([found["all"], expected]))[0, 1] > 0.95
    assert found["own"].mean() > 0.99 and 0.97 < found["safe"].mean() <= found["own"].mean()


@pytest.mark.slow
def test_toy_optimum_on_published_rows(clip: LabelSpace):
    labels = torch.linspace(0, 79, 20).long()
    found = learned(clip, "coco", labels)
    assert 0.30 < found["all"].mean() < 0.37
    assert found["own"].mean() > 0.98
    assert 0.8 < found["safe"].mean() < found["own"].mean()

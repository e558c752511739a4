"""LabelSpace: which column each dataset's class index means, and which columns an annotation speaks about."""

from __future__ import annotations

import pytest
import torch

from mvseg.vocabulary import LabelSpace, Vocabulary


def words(name: str, *names: str, start: float | None = None, counts: tuple[int, ...] | None = None) -> Vocabulary:
    """A vocabulary whose embedding rows are start, start + 1, ... in both columns."""
    rows = None if start is None else (torch.arange(len(names)) + start)[:, None].repeat(1, 2)
    return Vocabulary(name=name, names=names, embeddings=rows, image_count=counts)


A = words("a", "cat", "dog", "traffic light", start=0, counts=(5, 6, 7))
B = words("b", "Traffic_Light", "horse", start=10, counts=(1, 2))


def test_concatenate_keeps_datasets_apart():
    space = LabelSpace.concatenate({"a_train": A, "b": B, "a_val": A})
    assert space.n == len(space) == 5
    assert space.names == ("cat", "dog", "traffic light", "Traffic_Light", "horse")
    assert space.columns("a_train").tolist() == space.columns("a_val").tolist() == [0, 1, 2]
    assert space.columns("b").tolist() == [3, 4]
    assert space.embeddings[:, 0].tolist() == [0, 1, 2, 10, 11]
    assert space.image_count.tolist() == [5, 6, 7, 1, 2]  # a_train and a_val share one vocabulary: counted once
    assert space.datasets == ("a_train", "b", "a_val")


def test_merge_names_shares_equal_words():
    space = LabelSpace.merge_names({"b": B, "a": A})
    assert space.names == ("Traffic_Light", "horse", "cat", "dog")
    assert space.columns("a").tolist() == [2, 3, 0]
    assert space.embeddings[:, 1].tolist() == [10, 11, 0, 1]  # the shared row is that of the first dataset
    assert space.image_count.tolist() == [8, 2, 5, 6]


def test_to_columns_keeps_shape():
    space = LabelSpace.merge_names({"b": B, "a": A})
    assert space.to_columns("a", torch.tensor([[2, 0], [1, 2]])).tolist() == [[0, 2], [3, 0]]
    assert space.to_columns("a", torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_unknown_dataset_names_the_nearest():
    space = LabelSpace.concatenate({"coco_2017_train": A, "b": B})
    with pytest.raises(KeyError, match=r"nearest: coco_2017_train"):
        space.columns("coco_train")


def test_embeddings_must_fit_together():
    plain = words("plain", "x")
    assert LabelSpace.concatenate({"plain": plain}).embeddings is None
    assert LabelSpace.concatenate({"plain": plain, "a": words("a", "y")}).image_count is None
    with pytest.raises(ValueError, match=r"a: 2, plain: none"):
        LabelSpace.concatenate({"a": A, "plain": plain})
    wide = Vocabulary(name="wide", names=("x",), embeddings=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"a: 2, wide: 3"):
        LabelSpace.concatenate({"a": A, "wide": wide})


def test_coco_and_lvis_together():
    coco, lvis = Vocabulary.from_table("coco"), Vocabulary.from_table("lvis_v1")
    assert LabelSpace.concatenate({"coco": coco, "lvis": lvis}).n == 1283
    merged = LabelSpace.merge_names({"lvis": lvis, "coco": coco})
    shared_words = {n.replace("_", " ").lower() for n in lvis.names} & set(coco.names)
    assert merged.n == 1283 - len(shared_words)
    for dataset, vocabulary in (("coco", coco), ("lvis", lvis)):
        spelled = [merged.names[c].replace("_", " ").lower() for c in merged.columns(dataset)]
        assert spelled == [n.replace("_", " ").lower() for n in vocabulary.names]

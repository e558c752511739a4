"""What the mapper makes of label maps, tags, captions and phrases: everything follows the augmentation."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from format_files import SIZE, caption_set, panoptic_set, phrase_set, picture, save, semantic_set, stripes

from mvseg.data import get_records
from mvseg.data.label_maps import LabelMapError, read_semantic, transform_labels, transform_panoptic
from mvseg.data.mappers import MultiDatasetMapper
from mvseg.data.reading import ImageReadError
from mvseg.data.targets import swap_sides, transform_phrases

FLIP = [T.RandomFlip(prob=1.0)]
LARGE = 1 + 256 * 2 + 65536 * 3


def mapped(record, augmentations=(), is_train=True):
    before = copy.deepcopy(record)
    result = MultiDatasetMapper(is_train, augmentations={}, default_augmentations=list(augmentations))(record)
    assert record == before
    return result


@pytest.fixture
def semantic(tmp_path, card):
    card(name="sem", **semantic_set(tmp_path, {"a": stripes(1, 2, 3, 0)}, label_offset=1, ignore_label=0))
    return get_records("sem")[0]


def test_semantic_map_follows_the_image(semantic):
    plain = mapped(semantic)
    assert plain["sem_seg"].dtype == torch.int64 and "instances" not in plain
    assert plain["sem_seg"].tolist() == stripes(0, 1, 2, 255).tolist()
    assert not {"sem_seg_file_name", "sem_seg_values"} & set(plain)
    assert torch.equal(mapped(semantic, FLIP)["sem_seg"], plain["sem_seg"].flip(1))
    doubled = mapped(semantic, [T.Resize((60, 80))])
    assert torch.equal(doubled["sem_seg"], plain["sem_seg"].repeat_interleave(2, 0).repeat_interleave(2, 1))
    padded = mapped(semantic, [T.FixedSizeCrop((35, 50), pad=True)])
    assert padded["image"].shape == (3, 35, 50)
    assert torch.equal(padded["sem_seg"][:30, :40], plain["sem_seg"])
    assert (padded["sem_seg"][30:] == 255).all() and (padded["sem_seg"][:, 40:] == 255).all()


def test_pixels_and_labels_stay_together(tmp_path, card):
    """The image is painted in the colour of its classes, so every pixel must still say its own label."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 3, (6, 8)), np.ones((5, 5), int))
    fields = semantic_set(tmp_path, {"a": blocks})
    save(tmp_path / "images/training/a.png", np.repeat(blocks[..., None] * 100, 3, axis=2))
    (tmp_path / "images/training/a.jpg").unlink()
    card(name="painted", **fields)
    record = get_records("painted")[0]
    for seed in range(10):
        np.random.seed(seed)
        crop = [T.RandomFlip(), T.RandomCrop("absolute", (20, 25)), T.RandomFlip(horizontal=False, vertical=True)]
        result = mapped(record, crop)
        assert torch.equal(result["image"][0].long(), result["sem_seg"] * 100)


def test_more_than_255_classes(tmp_path, card):
    fields = semantic_set(tmp_path, {}, label_offset=0, ignore_label=1000)
    picture(tmp_path / "images/a.jpg")
    save(tmp_path / "annotations/a.png", stripes(254, 255, 299, 1000), np.uint16)
    card(name="many", **{**fields, "vocabulary": [f"word {i}" for i in range(300)]})
    record = get_records("many")[0]
    assert mapped(record, FLIP)["sem_seg"].tolist() == stripes(65535, 299, 255, 254).tolist()
    padded = mapped(record, [T.FixedSizeCrop((35, 50), pad=True)])["sem_seg"]
    assert (padded[30:] == 65535).all() and padded[0, :40].tolist() == stripes(254, 255, 299, 65535)[0].tolist()


@pytest.mark.parametrize("labels", [[0, 3, 254], [0, 3, 254, 255], [7, 256, 40000, 65534]])
@pytest.mark.parametrize("fill", [255, 65535, 0])
def test_labels_of_one_and_of_two_bytes_are_moved_alike(labels, fill):
    rng = np.random.default_rng(1)
    values = rng.choice([*labels, fill], (9, 7))
    flip = T.TransformList(
        [T.HFlipTransform(7), T.CropTransform(1, 2, 5, 6), T.PadTransform(0, 0, 2, 1, seg_pad_value=255)]
    )
    expected = np.full((7, 7), fill)
    expected[:6, :5] = values[:, ::-1][2:8, 1:6]
    assert np.array_equal(transform_labels(values, flip, fill), expected)


def test_panoptic_map_follows_the_image(tmp_path, card):
    card(name="pan", **panoptic_set(tmp_path))
    first, second = get_records("pan")
    result = mapped(first, FLIP)
    assert result["pan_seg"].dtype == torch.int64
    assert result["pan_seg"].tolist() == stripes(0, 9, LARGE, LARGE).tolist()
    assert [(s["id"], s["category_id"], s["isthing"], s["area"]) for s in result["segments_info"]] == [
        (LARGE, 0, True, 600),
        (9, 1, False, 300),
    ]
    assert "pan_seg_file_name" not in result and "instances" not in result
    cropped = mapped(first, [T.CropTransform(25, 0, 15, 30)])  # only grass and nothing
    assert [(s["id"], s["area"]) for s in cropped["segments_info"]] == [(9, 150)]
    assert mapped(second)["segments_info"][0]["iscrowd"] == 1


def test_panoptic_map_of_many_segments():
    ids = np.arange(1, 601).reshape(20, 30) * 7
    segments = [{"id": int(i), "bbox": [0, 0, 1, 1]} for i in ids.reshape(-1)]
    moved, kept = transform_panoptic(ids, segments, T.TransformList([T.HFlipTransform(30)]))
    assert np.array_equal(moved, ids[:, ::-1]) and kept == [{"id": s["id"], "area": 1} for s in segments]


def test_labels_that_do_not_fit_stop_with_dataset_image_and_file(semantic):
    save(_path(semantic), stripes(1, 2, 3, 9))
    with pytest.raises(LabelMapError, match=r"dataset 'sem', image 1, .*a.png: the values 9 are no classes"):
        mapped(semantic)
    _path(semantic).write_bytes(b"no picture")
    with pytest.raises(ImageReadError, match=r"label map .*a.png: UnidentifiedImageError"):
        mapped(semantic)
    assert mapped(semantic, is_train=False)["image"].shape == (3, *SIZE)  # testing does not read it


def _path(record):
    return Path(record["sem_seg_file_name"])


def test_values_of_a_dataset_without_a_card_are_classes(semantic):
    save(_path(semantic), stripes(0, 7, 200, 255))
    record = {key: value for key, value in semantic.items() if key != "sem_seg_values"}
    assert np.array_equal(read_semantic(record), stripes(0, 7, 200, 255))
    assert mapped(record, FLIP)["sem_seg"].tolist() == stripes(255, 200, 7, 0).tolist()


def test_phrases_follow_the_image_and_stay_true(tmp_path, card):
    card(name="ph", **phrase_set(tmp_path))
    record = get_records("ph")[0]
    plain = mapped(record)["phrases"]
    assert plain[0] == {"text": "left dog", "bbox": [2, 3, 12, 23], "bbox_mode": BoxMode.XYXY_ABS, "ref_id": 8}
    flipped = mapped(record, FLIP)["phrases"]
    assert [p["text"] for p in flipped] == ["right dog", "the Rightmost", "the cat left of it"]
    assert flipped[0]["bbox"] == [28, 3, 38, 23]
    doubled = mapped(record, [T.Resize((60, 80))])["phrases"]
    assert doubled[2]["bbox"] == [60, 6, 76, 22] and doubled[2]["text"] == "the cat right of it"
    cropped = mapped(record, [T.CropTransform(8, 5, 15, 20)])["phrases"]  # the cat is gone
    assert [p["bbox"] for p in cropped] == [[0, 0, 4, 18]] * 2
    upside_down = mapped(record, [T.RandomFlip(prob=1.0, horizontal=False, vertical=True)])["phrases"]
    assert upside_down[0]["text"] == "left dog" and upside_down[0]["bbox"] == [2, 7, 12, 27]
    tested = mapped(record, FLIP, is_train=False)
    assert tested["phrases"] == record["phrases"]  # a question of the test, in pixels of the file
    assert transform_phrases([], T.TransformList([]), (3, 3)) == []


def test_captions_and_tags(tmp_path, card):
    card(name="cap", **caption_set(tmp_path))
    record = get_records("cap")[0]
    assert mapped(record)["captions"] == ["A dog left of a cat."]
    assert mapped(record, [*FLIP, *FLIP])["captions"] == ["A dog left of a cat."]
    assert mapped(record, FLIP)["captions"] == ["A dog right of a cat."]
    picture(tmp_path / "tags/dog/1.png")
    card(name="tags", format="image_folder", image_root=str(tmp_path / "tags"))
    result = mapped(get_records("tags")[0])
    assert result["image_labels"] == [0] and len(result["instances"]) == 0
    assert (result["height"], result["width"]) == SIZE  # not known before the image was read
    tested = mapped(get_records("tags")[0], is_train=False)
    assert "image_labels" not in tested and "annotations" not in tested


def test_sides_are_whole_words():
    text = "Left of the upright leftmost LEFT-hand right, rightful theft; the right-most copyright"
    assert swap_sides(text) == "Right of the upright rightmost RIGHT-hand left, rightful theft; the left-most copyright"
    assert swap_sides(swap_sides(text)) == text

"""Example pictures: where they are, which are drawn, how they are cropped and shown, and mistakes of the places."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from mvseg.data.catalog import register_dataset, unregister_card
from mvseg.data.example_views import ViewSettings, embed_examples, image_rows, random_views, square_crop
from mvseg.data.examples import Example, _shown, choose_examples, read_examples
from mvseg.data.reading import ImageReadError
from mvseg.vocabulary import Vocabulary
from mvseg.vocabulary.fusion import AggregatorFacts, ExampleAggregator, aggregate


def picture(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class MeanColor:
    """An image encoder whose embedding is the mean colour."""

    fingerprint = "ab" * 16

    def encode(self, images):
        return torch.stack([torch.from_numpy(image.reshape(-1, 3).mean(0)).float() for image in images])


@pytest.fixture
def folder(tmp_path):
    for number, place in enumerate(["cat/1.png", "cat/2.png", "Trash_Can/1.png"]):
        (tmp_path / "ex" / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(tmp_path / "ex" / place)
    return tmp_path / "ex"


def test_a_folder_and_a_list_of_boxes(folder):
    words = Vocabulary(name="w", names=("bin", "cat"), synonyms=(("trash can",), ()))
    found = read_examples(folder, words)
    assert [*found] == ["bin", "cat"] and [len(group) for group in found.values()] == [1, 2]
    rows = "word,image,x,y,w,h\ncat,cat/1.png,1,2,30,20\ntrash can,Trash_Can/1.png,,,,\nCAT,cat/2.png,0,0,5,5\n"
    (folder / "boxes.csv").write_text(rows)
    listed = read_examples(folder / "boxes.csv", words)
    assert [e.box for e in listed["cat"]] == [(1, 2, 30, 20), (0, 0, 5, 5)] and listed["bin"][0].box is None
    assert [e.area for e in listed["cat"]] == [600, 25] and listed["bin"][0].area == 10000
    embedded = embed_examples(MeanColor(), listed, ViewSettings(context=0, views=0))
    square = picture(0)[0:27, 1:31]  # 30 by 30 about (16, 12), cut at the top
    np.testing.assert_allclose(embedded["cat"][0, 0].numpy(), square.reshape(-1, 3).mean(0), rtol=1e-5)
    np.testing.assert_allclose(embedded["bin"][0, 0].numpy(), picture(2).reshape(-1, 3).mean(0), rtol=1e-5)
    assert {word: tuple(rows.shape) for word, rows in embedded.items()} == {"bin": (1, 1, 3), "cat": (2, 1, 3)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("word,file\ncat,1.png\n", r"expected a first line with the columns word, image"),
        ("word,image,x,y\ncat,1.png,1,2\n", r"expected a first line"),
        ("word,image\n", r"no example is in it"),
        ("word,image\ncat,\n", r"line 2: the word or the image is empty"),
        ("word,image,x,y,w,h\ncat,1.png,1,2,three,4\n", r"line 2: the box 1, 2, three, 4 is not four numbers"),
        ("word,image,x,y,w,h\ncat,1.png,1,2,0,4\n", r"line 2: the box x=1, y=2, w=0, h=4 has no area"),
        ("word,image\nowl,1.png\n", r"1 words are not in vocabulary 'words': owl"),
    ],
)
def test_mistakes_in_a_list(tmp_path, text, message):
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_examples(tmp_path / "e.csv", Vocabulary.from_names(["cat", "dog"]))


def test_mistakes_of_places_and_files(folder):
    with pytest.raises(FileNotFoundError, match=r"examples gone: there is no such folder, file or dataset"):
        read_examples("gone")
    (folder / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"a.txt: expected a folder"):
        read_examples(folder / "a.txt")
    with pytest.raises(ValueError, match=r"expected a folder of images for every word, cat/WORD/IMAGE"):
        read_examples(folder / "cat")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"the folder 'empty' has no image"):
        read_examples(folder)
    for name, message in (("broken.png", "no image"), ("gone.png", "does not exist")):
        (folder / "broken.png").write_text("no picture")
        with pytest.raises(ImageReadError, match=rf"{name}: .*{message}"):
            embed_examples(MeanColor(), {"cat": [Example(str(folder / name))]})
    with pytest.raises(ValueError, match=r"1.png: the box x=60, y=0, w=5, h=5 is outside of the image of 60 x 40"):
        embed_examples(MeanColor(), {"cat": [Example(str(folder / "cat/1.png"), (60, 0, 5, 5))]})
    with pytest.raises(ValueError, match=r"must not be negative"):
        ViewSettings(views=-1)


def test_the_draw_follows_the_area_and_the_seed_and_no_other_word():
    image = picture(0)
    boxes = [Example(image, (0, 0, side, side)) for side in (1, 2, 3)]  # areas 1, 4, 9
    counts = Counter(choose_examples({"cat": boxes}, 1, seed)["cat"][0].box[2] for seed in range(1400))
    for side in (1, 2, 3):
        assert counts[side] / 1400 == pytest.approx(side**2 / 14, abs=0.045)  # 3.5 standard deviations
    many = {"cat": boxes * 4, "dog": boxes * 4, "owl": boxes}
    first, again = choose_examples(many, 5, 7), choose_examples(dict(reversed(many.items())), 5, 7)
    assert first == again and len(set(map(id, first["cat"]))) <= 3 and len(first["owl"]) == 3
    assert choose_examples(many, 5, 8) != first and len(choose_examples(many, 0)["cat"]) == 12
    with pytest.raises(ValueError, match="-1 is no number"):
        choose_examples(many, -1)


def test_boxes_and_tags_of_a_dataset(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "0.png")

    boxes = [(1, [1, 2, 10, 20], {}), (2, [0, 0, 9, 9], {"iscrowd": 1, "segmentation": []}), (3, [5, 5, 4, 4], {})]
    tree = {
        "images": [{"id": number, "file_name": "0.png", "height": 40, "width": 60} for number in (1, 2)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(["cat", "dog", "owl"], 1)],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0, **facts}
            for number, (c, b, facts) in enumerate(boxes, 1)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(tree))
    place = {"image_root": str(tmp_path), "annotations": str(tmp_path / "a.json")}
    register_dataset(name="tiny_examples", format="coco", **place)
    try:
        found = read_examples("tiny_examples")
        assert {word: [e.box for e in group] for word, group in found.items()} == {
            "cat": [(1, 2, 10, 20)],
            "owl": [(5, 5, 4, 4)],
        }
        assert "image 1, " in found["cat"][0].name
        assert [*read_examples("tiny_examples", Vocabulary.from_names(["tram", "owl"]))] == ["owl"]
        with pytest.raises(ValueError, match=r"no box and no tag of the words wanted"):
            read_examples("tiny_examples", Vocabulary.from_names(["dog"]))
    finally:
        unregister_card("tiny_examples")
    assert list(_shown({"annotations": [], "image_labels": [2, 0]})) == [(2, None), (0, None)]  # whole images


def test_squares_with_context_against_a_mask_of_pixels():
    image = picture(1)
    for box, context in (
        ((10, 5, 8, 20), 0.4),
        ((10, 5, 20, 8), 0.2),
        ((50, 30, 20, 20), 0.4),
        ((0.2, 0.3, 0.1, 0.1), 0),
    ):
        x, y, w, h = box
        half = max(w, h) * (1 + context) / 2
        columns = range(int(max(0, x + w / 2 - half)), int(min(60, x + w / 2 + half)))
        rows = range(int(max(0, y + h / 2 - half)), int(min(40, y + h / 2 + half)))
        expected = image[
            rows.start : max(rows.stop, rows.start + 1), columns.start : max(columns.stop, columns.start + 1)
        ]
        np.testing.assert_array_equal(square_crop(image, box, context), expected)


def test_views_are_the_same_for_a_seed_and_keep_most_of_the_picture():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30], image[:, 30:] = (200, 40, 40), (40, 40, 200)
    views = random_views(image, 20, 1)
    assert all(np.array_equal(a, b) for a, b in zip(views, random_views(image, 20, 1), strict=True))
    assert not np.array_equal(views[0], random_views(image, 1, 2)[0]) and len({v.tobytes() for v in views}) == 20
    assert all(v.shape == (448, 448, 3) and v.dtype == np.uint8 for v in views)
    red_left = [bool(v[:, 0, 0].mean() > v[:, 0, 2].mean()) for v in views]
    assert 3 < sum(red_left) < 17  # some are mirrored
    shares = [float((v[..., 0] > v[..., 2]).mean()) for v in views]
    assert min(shares) > 0.2 and max(shares) < 0.8
    assert random_views(image, 0, 1)[0] is image


def test_rows_do_not_depend_on_the_order_of_examples_or_words():
    pictures = [Example(picture(seed)) for seed in range(3)]
    settings = ViewSettings(views=2)
    first = embed_examples(MeanColor(), {"cat": pictures, "dog": pictures[:1]}, settings)
    other = embed_examples(MeanColor(), {"dog": pictures[:1], "cat": pictures[::-1]}, settings)
    torch.testing.assert_close(first["cat"].flip(0), other["cat"], rtol=0, atol=0)
    assert first["cat"].shape == (3, 2, 3)
    mean = first["cat"].double().reshape(6, 3).mean(0).float()
    torch.testing.assert_close(image_rows(first)["cat"], mean)
    torch.testing.assert_close(image_rows(other)["cat"], mean)
    torch.manual_seed(0)
    model = ExampleAggregator(3, 1, 3).eval()
    rows = image_rows(first, aggregator=(model, AggregatorFacts(3, 1, 3, average="normalized")))
    torch.testing.assert_close(
        rows["cat"], aggregate(model, other["cat"].flatten(0, 1), "normalized"), atol=1e-5, rtol=0
    )
    assert embed_examples(MeanColor(), {}) == {}

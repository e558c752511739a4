"""The world's painter: the table of things, outlines, grounds, and scenes with exact masks."""

from __future__ import annotations

import csv
import hashlib
import itertools
import math
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

import mvseg.data.sources.world as world
from mvseg.data.sources.world import (
    COLORS,
    GROUND_TABLE,
    GROUNDS,
    Scene,
    SceneSpec,
    ancestors,
    draw_scene,
    hypernyms,
    mask_to_polygons,
    things,
)
from mvseg.data.sources.world.chance import Chance
from mvseg.data.sources.world.filling import FINE, FULL, cover, fill, shrink
from mvseg.data.sources.world.outlines import UNIT, read_outline
from mvseg.data.sources.world.scene import fill_thing

SPECS = {
    "plain": SceneSpec((1, 2), size=128),
    "sketch": SceneSpec((1, 3), size=128, style="sketch"),
    "crowded": SceneSpec((4,), size=160, min_objects=14, max_objects=14),
    "dominant": SceneSpec((5, 6, 7), size=128, dominant="umbrella", min_objects=0, max_objects=3),
}
# Of the pixels and all else that a scene holds; they change only if a scene is meant to look different.
HASHES = {
    "plain": "dcb7036ff641e2b0",
    "sketch": "ce0322e639eae6a3",
    "crowded": "bef4ee2ccdcbf913",
    "dominant": "66987071f785f1a1",
}


def hash_of(scene: Scene) -> str:
    digest = hashlib.sha256(scene.image.tobytes() + scene.ground.tobytes())
    for item in scene.objects:
        digest.update(f"{item.thing} {item.color} {item.full_area}".encode() + item.mask.tobytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    plain = [draw_scene(SceneSpec((9, n), size=192, min_objects=4, max_objects=10)) for n in range(40)]
    return plain + [draw_scene(SceneSpec((9, n), size=96, style="sketch")) for n in range(20)]


# ---- the table ----


def table_rows(name: str) -> list[dict[str, str]]:
    path = Path(world.__file__).parent / name
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_there_are_enough_things_and_each_is_described():
    assert len(things()) == len(table_rows("things.tsv")) >= 120
    for word in [*things().values(), *hypernyms().values(), *GROUND_TABLE]:
        text = word.definition
        assert text[0].isupper() and text.endswith(".") and text.count(".") == 1 and len(text) > 15, word.name
        assert word.name == word.name.strip() and "_" not in word.name
    definitions = Counter(thing.definition for thing in things().values())
    assert max(definitions.values()) == 1


def test_no_two_things_share_a_name_or_synonym():
    words = Counter(w.lower() for thing in things().values() for w in {thing.name, *thing.synonyms})
    assert [w for w, n in words.items() if n > 1] == []
    assert words.keys().isdisjoint(hypernyms())
    assert words.keys().isdisjoint(w for ground in GROUND_TABLE for w in (ground.name, *ground.synonyms))


def test_every_parent_is_known_and_no_word_is_above_itself():
    above = {row["name"]: row["parents"].split("|") for row in table_rows("things.tsv") + table_rows("hypernyms.tsv")}
    above |= {ground.name: list(ground.parents) for ground in GROUND_TABLE}
    for name, parents in above.items():
        for parent in filter(None, parents):
            assert parent in above, f"{name} has the unknown parent {parent}"
    done: set[str] = set()
    while fresh := {n for n in above if n not in done and set(filter(None, above[n])) <= done}:
        done |= fresh
    assert done == set(above), f"in a circle: {set(above) - done}"
    assert all(thing.parents for thing in things().values())


def test_ancestors_climb_to_the_top():
    assert ancestors("umbrella") == ("accessory", "artifact")
    assert ancestors("fir tree")[:2] == ("tree", "woody plant")  # through a word that is itself a thing
    assert set(ancestors("bee")) == {"insect", "arthropod", "invertebrate", "animal"} | set(ancestors("animal"))
    assert len(set(ancestors("crab"))) == len(ancestors("crab"))
    with pytest.raises(KeyError, match="crabb"):
        ancestors("crabb")


# ---- outlines and filling ----


def test_outlines_fit_the_unit_square_and_holes_run_the_other_way():
    for name, thing in things().items():
        points = np.concatenate(thing.outline.body)
        assert np.abs(points).max() <= UNIT and np.ptp(points, 0).max() >= 2 * UNIT - 8, name
        inked = np.concatenate(thing.outline.ink or [points])
        assert (inked.min(0) >= points.min(0) - 6).all() and (inked.max(0) <= points.max(0) + 6).all(), name
    ring = read_outline("draw: o 0 0 90; -o 0 0 45")
    areas = sorted(float(cv2.contourArea(loop.astype(np.int32), True)) for loop in ring.body)
    assert areas[0] < 0 < areas[1] or areas[1] < 0 < areas[0]
    assert max(map(abs, areas)) == pytest.approx(math.pi * UNIT**2, rel=0.02)
    assert min(map(abs, areas)) == pytest.approx(math.pi * UNIT**2 / 4, rel=0.03)


def test_marks_of_the_drawing_notation():
    def area(text: str) -> float:
        return sum(float(cv2.contourArea(loop.astype(np.int32), True)) for loop in read_outline(text).body) / UNIT**2

    half = abs(area("draw: b -100 -100 100 100; -b 0 -100 100 100"))  # 100 wide, 200 high: fits with height 2
    assert half == pytest.approx(2, rel=0.02)
    assert abs(area("draw: /b 50 -100 100 100")) == pytest.approx(2, rel=0.02)  # two halves of a half
    assert abs(area("draw: |p 0 -100 100 100")) == pytest.approx(2, rel=0.02)  # a triangle and its mirror image
    assert abs(area("draw: n 0 0 100 4 0")) == pytest.approx(2, rel=0.02)
    assert abs(area("draw: r -100 -100 100 100 100")) == pytest.approx(math.pi, rel=0.02)
    bar = abs(area("draw: l 20 -90 0 90 0"))  # round ends: 180 x 20 and a disc of diameter 20, in a box 200 long
    assert bar == pytest.approx((180 * 20 + math.pi * 100) / 100**2, rel=0.05)
    inked = read_outline("draw: o 0 0 90; *b -10 -10 10 10; -*b -5 -5 5 5")
    assert len(inked.body) == 1 and len(inked.ink) == 2


@pytest.mark.parametrize("text", ["heart", "draw: q 1 2 3", "draw: -b 0 0 10 10", "glyph:U+10FFFF", "draw: o 1 x 3"])
def test_bad_outlines_are_refused(text: str):
    with pytest.raises(ValueError):
        read_outline(text)


def test_filling_agrees_with_a_point_in_polygon_test():
    rng = np.random.default_rng(0)
    for _ in range(12):
        loops = [rng.integers(0, 24, (int(rng.integers(3, 9)), 2)) for _ in range(2)]
        inside = np.zeros((24, 28), bool)
        for row, column in itertools.product(range(24), range(28)):
            px, py = column + 0.5, row + 0.5 - 1e-9  # a pixel whose centre is on an edge belongs to the shape below it
            for loop in loops:
                for (ax, ay), (bx, by) in zip(loop, np.roll(loop, -1, 0), strict=True):
                    if (ax > px) != (bx > px) and ay + (by - ay) * (px - ax) / (bx - ax) < py + 2e-9:
                        inside[row, column] ^= True
        np.testing.assert_array_equal(fill(loops, 24, 28) > 0, inside)


def test_coverage_is_the_share_of_fine_pixels():
    triangle = np.array([[8, 8], [70, 30], [20, 76]])
    hole = np.array([[25, 30], [28, 45], [38, 35]])
    fine = fill([triangle, hole], 80, 80)
    expected = fine.reshape(20, FINE, 20, FINE).sum((1, 3))
    for loops in ([triangle, hole], [triangle[::-1], hole[::-1]]):  # a flipped thing runs the other way round
        np.testing.assert_array_equal(cover(loops, 20, 20), expected)
    np.testing.assert_array_equal(shrink(fine * np.uint8(FULL)), expected)


def test_things_look_the_same_at_the_smallest_and_the_largest_size():
    small_side, large_side = 20, 154  # 8 % and 60 % of 256 pixels
    for number, thing in enumerate(things().values()):
        small = fill_thing(Chance((number,)), thing, small_side).body
        large = fill_thing(Chance((number,)), thing, large_side).body
        for body, side in ((small, small_side), (large, large_side)):
            border = np.concatenate([body[:2].ravel(), body[-1:].ravel(), body[:, :2].ravel(), body[:, -1:].ravel()])
            assert not border.any(), thing.name
            assert (body >= FULL // 2).sum() >= 12, f"{thing.name}: too thin to see at {side} pixels"
            assert side * 0.8 <= max(body.shape) <= side * 1.45 + 8
        bodies = []
        for body in (small, large):
            x, y, w, h = cv2.boundingRect(body)
            bodies.append(cv2.resize(body[y : y + h, x : x + w], (64, 64), interpolation=cv2.INTER_AREA) / FULL)
        overlap = np.minimum(*bodies).sum() / np.maximum(*bodies).sum()
        assert overlap > 0.5, f"{thing.name}: {overlap:.2f}"


def appearance(thing: world.Thing, angle: float, flip: int, side: int = 28) -> np.ndarray:
    """Two layers, silhouette without ink and ink, each (side, side) flattened from 0 to 1."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[flip * c, flip * s], [-s, c]])
    body = np.concatenate([loop @ turn for loop in thing.outline.body])
    scale = 4 * (side - 1) / np.ptp(body, 0).max()
    layers = []
    for loops in (thing.outline.body, thing.outline.ink):
        layer = np.zeros((4 * side, 4 * side), np.uint8)
        points = [(loop @ turn - (body.min(0) + body.max(0)) / 2) * scale + 2 * side for loop in loops]
        if points:
            cv2.fillPoly(layer, [np.round(p).astype(np.int32) for p in points], 255)
        layers.append(cv2.resize(layer, (side, side), interpolation=cv2.INTER_AREA).ravel() / np.float32(255))
    return np.stack([np.clip(layers[0] - layers[1], 0, 1), layers[1]])


def test_no_two_things_can_be_mistaken_for_each_other():
    table = list(things().values())
    upright = np.stack([appearance(thing, 0, 1) for thing in table])
    area = upright.sum(1)
    worst = (0.0, "", "")
    for number, thing in enumerate(table):
        for angle, flip in itertools.product(range(-36, 37, 12), (1, -1) if thing.flip else (1,)):
            if abs(angle) > 2 * thing.turn:
                continue
            other = appearance(thing, angle, flip)
            same = np.minimum(upright, other).sum((1, 2))
            share = same / np.maximum(area, other.sum(0)).sum(1)
            share[number] = 0
            best = int(share.argmax())
            worst = max(worst, (float(share[best]), thing.name, table[best].name))
    assert worst[0] < 0.86, worst


# ---- grounds ----


def test_grounds_have_their_colours_and_differ():
    assert len(GROUNDS) == len(set(GROUNDS)) >= 8
    means = {}
    for number in range(200):
        scene = draw_scene(SceneSpec((8, number), size=64, min_objects=0, max_objects=0))
        values, counts = np.unique(scene.ground, return_counts=True)
        for value, count in zip(values, counts, strict=True):
            if count > 200:
                means.setdefault(int(value), []).append(scene.image[scene.ground == value].mean(0))
    assert set(means) == set(range(len(GROUNDS)))
    centres = {value: np.mean(rows, 0) for value, rows in means.items()}
    for value, centre in centres.items():
        colors = np.array(GROUND_TABLE[value].colors)
        assert (centre > colors.min(0) - 12).all() and (centre < colors.max(0) + 12).all(), GROUNDS[value]
    gaps = [np.abs(centres[a] - centres[b]).max() for a, b in itertools.combinations(centres, 2)]
    assert min(gaps) > 8


def test_scenes_have_one_to_three_grounds(scenes: list[Scene]):
    counts = Counter(len(np.unique(scene.ground)) for scene in scenes)
    assert set(counts) == {1, 2, 3} and min(counts.values()) >= 3
    for scene in scenes:
        assert scene.ground.dtype == np.uint8 and scene.ground.max() < len(GROUNDS)
        if len(np.unique(scene.ground)) > 1:
            assert GROUND_TABLE[scene.ground[0, 0]].place == "above"
            assert GROUND_TABLE[scene.ground[-1].min()].place == "below"


# ---- scenes ----


@pytest.mark.parametrize("name", SPECS)
def test_a_seed_gives_equal_pixels_everywhere(name: str):
    threads = cv2.getNumThreads()
    try:
        for count in (1, 3):
            cv2.setNumThreads(count)
            assert hash_of(draw_scene(SPECS[name])) == HASHES[name]
    finally:
        cv2.setNumThreads(threads)


def test_random_numbers_are_pinned():
    chance = Chance((1, 2))
    assert [chance.between(0, 99) for _ in range(6)] == [40, 57, 14, 33, 1, 81]
    assert Chance((12,)).share() != Chance((1, 2)).share()
    assert sorted(Chance((3,)).shuffled(range(20))) == list(range(20))
    drawn = Counter(Chance((n,)).weighted("abc", (0, 1, 3)) for n in range(400))
    assert drawn["a"] == 0 and 0.17 < drawn["b"] / 400 < 0.33


def test_masks_are_disjoint_boxes_tight_and_half_is_visible(scenes: list[Scene]):
    covered = 0
    for scene in scenes:
        assert scene.image.shape == (*scene.ground.shape, 3) and scene.image.dtype == np.uint8
        assert np.sum([item.mask for item in scene.objects], 0).max() == 1
        for item in scene.objects:
            rows, columns = np.nonzero(item.mask)
            x, y, w, h = item.box
            assert (x, y, x + w - 1, y + h - 1) == (columns.min(), rows.min(), columns.max(), rows.max())
            assert 2 * item.mask.sum() >= item.full_area >= item.mask.sum()
            covered += item.mask.sum() < item.full_area
        assert scene.objects[-1].mask.sum() == scene.objects[-1].full_area  # nothing lies before the front one
    assert covered > 20  # things do hide one another


def test_painted_pixels_are_those_of_the_masks():
    spec = SceneSpec((30, 1), size=128, things=["circle"], min_objects=1, max_objects=1)
    scene, empty = draw_scene(spec), draw_scene(SceneSpec((30, 1), size=128, min_objects=0, max_objects=0))
    assert (scene.ground == empty.ground).all()
    changed = np.abs(scene.image.astype(int) - empty.image).max(2) > 60
    mask = scene.objects[0].mask
    assert (changed & mask).sum() > 0.9 * mask.sum()
    around = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    assert not (changed & ~around).any()


def seen_color(pixels: np.ndarray) -> str:
    """Name a colour by hue, saturation and value as people would, with no knowledge of the painter's table."""
    r, g, b = (float(v) / 255 for v in np.median(pixels, 0))
    value, low = max(r, g, b), min(r, g, b)
    if value - low < 0.1:
        return "black" if value < 0.3 else "white" if value > 0.8 else "gray"
    rise = value - low
    hue = 60 * (((g - b) / rise) % 6 if value == r else (b - r) / rise + 2 if value == g else (r - g) / rise + 4)
    if 14 < hue < 48 and value < 0.62:
        return "brown"
    if (hue > 318 or hue < 10) and low > 0.35 and value > 0.75:
        return "pink"
    for name, end in (("red", 14), ("orange", 40), ("yellow", 65), ("green", 170), ("blue", 250), ("purple", 310)):
        if hue < end:
            return name
    return "red"


@pytest.mark.parametrize("style", ["plain", "sketch"])
def test_colour_words_are_true_to_the_eye(style: str):
    seen: Counter[str] = Counter()
    for number in range(150):
        spec = SceneSpec((40, number), 192, ["square", "heart", "arrow", "cloud"], None, 1, 1, style)
        scene = draw_scene(spec)
        item = scene.objects[0]
        inner = cv2.erode(item.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        if style == "sketch":  # the pen: the darkest pixels
            pixels = scene.image[item.mask]
            pixels = pixels[pixels.astype(int).sum(1) <= np.percentile(pixels.astype(int).sum(1), 3)]
        else:
            pixels = scene.image[inner]
        if inner.sum() < 200:
            continue
        assert seen_color(pixels) == item.color, (number, np.median(pixels, 0))
        seen[item.color] += 1
    assert len(seen) >= (len(COLORS) if style == "plain" else 6)


def test_things_stand_out_from_what_lies_under_them(scenes: list[Scene]):
    gaps = []
    for scene in scenes[:40]:
        for item in scene.objects:
            near = cv2.dilate(item.mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
            ring = near & ~np.any([other.mask for other in scene.objects], 0)
            if ring.sum() > 20:
                inside, outside = np.median(scene.image[item.mask], 0), np.median(scene.image[ring], 0)
                gaps.append(np.abs(inside - outside).sum())
    assert np.percentile(gaps, 5) > 60 and np.median(gaps) > 150


def test_only_the_asked_things_appear_as_often_as_asked():
    names, weights = ["anchor", "apple", "book", "bus"], [6.0, 3.0, 1.0, 0.0]
    seen: Counter[str] = Counter()
    for number in range(60):
        scene = draw_scene(SceneSpec((50, number), 128, names, weights, 2, 5))
        assert 2 <= len(scene.objects) <= 5
        seen.update(item.thing for item in scene.objects)
    total = sum(seen.values())
    assert set(seen) == {"anchor", "apple", "book"}
    assert 0.48 < seen["anchor"] / total < 0.72 and 0.03 < seen["book"] / total < 0.18


def test_numbers_of_objects_are_reached():
    counts = Counter(len(draw_scene(SceneSpec((60, n), 128, None, None, 6, 9)).objects) for n in range(40))
    assert set(counts) <= {6, 7, 8, 9} and len(counts) >= 3


def test_the_dominant_thing_is_large_and_alone_of_its_size():
    for number in range(15):
        scene = draw_scene(SceneSpec((70, number), 128, ["key"], None, 0, 2, dominant="umbrella"))
        kinds = [item.thing for item in scene.objects]
        assert kinds[0] == "umbrella" and kinds.count("umbrella") == 1 and set(kinds) <= {"umbrella", "key"}
        assert max(scene.objects[0].box[2:]) > 0.45 * 128
    alone = draw_scene(SceneSpec((71,), 128, [], None, 0, 0, dominant="cat"))
    assert [item.thing for item in alone.objects] == ["cat"] and max(alone.objects[0].box[2:]) > 0.45 * 128


def test_the_sketch_style_is_paler_but_shows_the_same_kind_of_scene():
    plain = draw_scene(SceneSpec((80,), 128))
    sketch = draw_scene(SceneSpec((80,), 128, style="sketch"))
    assert sketch.image.mean() > 200 > plain.image.mean()
    for item in sketch.objects:
        assert item.color in COLORS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"things": ["umbrela"]}, "'umbrela'.*nearest: umbrella"),
        ({"dominant": "no such thing"}, "no such thing"),
        ({"style": "oil"}, "'oil'.*plain, sketch"),
        ({"things": ["cat"], "weights": [1.0, 2.0]}, "weight"),
        ({"things": ["cat"], "weights": [0.0]}, "weight"),
        ({"things": ["cat", "dog"], "weights": [2.0, -1.0]}, "weight"),
        ({"size": 20}, "size >= 48"),
        ({"min_objects": 5, "max_objects": 4}, "min_objects"),
    ],
)
def test_bad_specs_are_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        draw_scene(SceneSpec((1,), **{"size": 64, **change}))


def test_polygons_are_the_masks(scenes: list[Scene]):
    holes = 0
    for item in [item for scene in scenes[:12] for item in scene.objects]:
        polygons = mask_to_polygons(item.mask)
        runs = coco_mask.merge(coco_mask.frPyObjects(polygons, *item.mask.shape))
        drawn = coco_mask.decode(runs).astype(bool)
        assert (drawn & item.mask).sum() / (drawn | item.mask).sum() > 0.97, item.thing
        _, tree = cv2.findContours(item.mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        holes += (tree[0][:, 3] >= 0).any()
    assert holes > 3

"""The learned label space: true aliases are found, words that look alike stay apart, the choice is the best."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from mvseg.data.sources.world.words import word_list
from mvseg.vocabulary import LabelSpace, Vocabulary, read_mapping
from mvseg.vocabulary.learning import (
    Detections,
    Evidence,
    LearnedSpace,
    LearnSettings,
    Objects,
    choose_sets,
    learn_label_space,
    set_values,
    write_space,
)

Meanings = Mapping[str, Sequence[frozenset[str]]]  # vocabulary -> what each of its words covers


def boxes_of(rng: np.random.Generator, count: int) -> np.ndarray:
    corner, size = rng.uniform(0, 400, (count, 2)), rng.uniform(30, 120, (count, 2))
    return np.concatenate([corner, corner + size], axis=1)


def evidence_of(
    names: Mapping[str, Sequence[str]],
    meanings: Meanings,
    images: int = 60,
    per_image: int = 4,
    shown: Mapping[str, Sequence[str]] | None = None,
    miss: float = 0.1,
    false: float = 1.0,
    seed: int = 0,
) -> list[Evidence]:
    """What an imperfect partitioned detector finds: every column the things that its word covers, with noise.

    ``shown``: the things in a vocabulary's test images, where that is not everything.
    """
    rng = np.random.default_rng(seed)
    things = sorted(set().union(*(covers for lists in meanings.values() for covers in lists)))
    columns = [covers for lists in meanings.values() for covers in lists]
    evidence = []
    for name, covers in meanings.items():
        there = list((shown or {}).get(name, things))
        count = images * per_image
        image, thing = rng.integers(images, size=count), rng.integers(len(there), size=count)
        boxes = boxes_of(rng, count)
        annotated = [(n, k) for n in range(count) for k, c in enumerate(covers) if there[thing[n]] in c]
        rows = np.array([n for n, _ in annotated], dtype=int)
        objects = Objects(image[rows], np.array([k for _, k in annotated], int), boxes[rows], np.zeros(len(rows), bool))
        hits = [(n, k) for n in range(count) for k, c in enumerate(columns) if there[thing[n]] in c]
        hits = [hit for hit in hits if rng.random() > miss]
        rows = np.array([n for n, _ in hits], dtype=int)
        wrong = rng.poisson(false * images)
        found = Detections(
            np.concatenate([image[rows], rng.integers(images, size=wrong)]),
            np.concatenate([np.array([k for _, k in hits], int), rng.integers(len(columns), size=wrong)]),
            np.concatenate([boxes[rows] + rng.normal(scale=2, size=(len(rows), 4)), boxes_of(rng, wrong)]),
            np.concatenate([rng.uniform(0.4, 1, len(rows)), rng.uniform(0.1, 0.5, wrong)]),
        )
        evidence.append(Evidence(name, tuple(names[name]), found, objects, images))
    return evidence


def learned(words: Mapping[str, Mapping[str, Sequence[str] | str]], **options) -> LearnedSpace:
    """Learn from ``{vocabulary: {word: things that it covers}}``."""
    names = {name: list(lists) for name, lists in words.items()}
    meanings = {
        name: [frozenset([c] if isinstance(c, str) else c) for c in lists.values()] for name, lists in words.items()
    }
    settings = options.pop("settings", None)
    return learn_label_space(evidence_of(names, meanings, **options), settings)


def merges_of(space: LearnedSpace) -> set[frozenset[str]]:
    return {
        frozenset(f"{space.owner(column).name}:{space.word(column)}" for column in candidate.members)
        for candidate in space.merges
    }


HAND = {
    "a": {"couch": "sofa", "mouse": "rodent", "bat": "animal bat", "cat": "cat"},
    "b": {"sofa": "sofa", "Mouse": "computer mouse", "bat": "club", "dog": "dog"},
}


def test_two_names_for_one_thing_merge_and_one_name_for_two_things_does_not(tmp_path):
    space = learned(HAND, images=150)
    assert merges_of(space) == {frozenset(["a:couch", "b:sofa"])}
    assert [label.name for label in space.labels] == [
        "couch", "mouse (a)", "bat (a)", "cat", "Mouse (b)", "bat (b)", "dog"
    ]  # fmt: skip
    reasons = {tuple(space.word(c) for c in miss.members): miss.reason for miss in space.near_misses}
    apart = "same name, but the columns do not find each other's objects"
    assert reasons == {("mouse", "Mouse"): apart, ("bat", "bat"): apart}
    write_space(space, tmp_path)
    vocabularies = {name: Vocabulary(name=name, names=tuple(words)) for name, words in HAND.items()}
    by_file = LabelSpace.merge_mapping(vocabularies, tmp_path / "mapping.csv")
    assert by_file.names == tuple(label.name for label in space.labels)
    assert by_file.columns("a").tolist() == [0, 1, 2, 3] and by_file.columns("b").tolist() == [0, 4, 5, 6]
    rows = [line.split("\t") for line in (tmp_path / "evidence.tsv").read_text().splitlines()]
    header, first, second = rows
    assert first[header.index("display")] == "couch [a, b: sofa]"
    own, merged = (float(second[header.index(key)]) for key in ("AP_own", "AP_merged"))
    assert (own, merged) == pytest.approx((space.merges[0].own[1], space.merges[0].merged[1]), abs=1e-4)
    page = (tmp_path / "report.md").read_text()
    assert "8 words of 2 vocabularies became 7: 1 merges (1 of 2 words)" in page and "proven to be the best" in page
    assert "| mouse [a] + Mouse [b] | same name" in page


def test_three_vocabularies_with_a_pair_that_is_only_in_two():
    space = learned(
        {
            "a": {"person": "person", "car": "car", "tree": "tree"},
            "b": {"human": "person", "auto": "car"},
            "c": {"Person": "person", "lamp": "lamp", "tree": "tree"},
        }
    )
    assert merges_of(space) == {
        frozenset(["a:person", "b:human", "c:Person"]),
        frozenset(["a:car", "b:auto"]),
        frozenset(["a:tree", "c:tree"]),
    }
    assert {label.name for label in space.labels} == {"person", "car", "tree", "lamp"}
    assert space.choice.is_optimal
    values = [space.value(candidate) for candidate in space.merges]
    assert space.choice.objective == pytest.approx(sum(values))


def test_words_of_one_vocabulary_never_merge_and_chains_do_not_join_them():
    """Both words of a mean what b's one word means: a chain through b would join them."""
    space = learned({"a": {"sofa": "seat", "settee": "seat"}, "b": {"couch": "seat"}, "c": {"Sofa": "seat"}})
    for candidate in (*space.candidates, *space.merges):
        owners = [space.owner(column).name for column in candidate.members]
        assert len(set(owners)) == len(owners)
    assert len(space.labels) == 2
    assert sorted(len(label.members) for label in space.labels) == [1, 3]
    assert any("other merges are worth more" in miss.reason for miss in space.near_misses)


def test_nothing_in_common_one_class_and_words_without_objects():
    space = learned({"a": {"x": "1", "y": "2"}, "b": {"z": "3"}})
    assert not space.merges and len(space.labels) == 3 and space.choice.is_optimal
    shown = {"a": ["1", "2"], "b": ["1", "2"]}
    space = learned({"a": {"x": "1", "gone": "9"}, "b": {"x": "1", "gone": "9", "y": "2"}}, shown=shown)
    assert merges_of(space) == {frozenset(["a:x", "b:x"])}
    assert [space.word(column) for column in space.without_objects] == ["gone", "gone"]
    assert [miss.reason for miss in space.near_misses] == ["same name, but no object in the test set of a and b"]
    one = learned({"a": {"person": "person"}, "b": {"people": "person", "car": "car"}})
    assert merges_of(one) == {frozenset(["a:person", "b:people"])}


def test_a_vocabulary_without_a_test_set_stays_alone():
    names, covers = {"a": ["x"], "b": ["x"]}, {"a": [frozenset("x")], "b": [frozenset("x")]}
    first, second = evidence_of(names, covers)
    nothing = Evidence("b", ("x",), second.detections.take(slice(0)), second.objects.take(slice(0)), 0)
    space = learn_label_space([first, nothing])
    assert not space.merges and space.without_objects == (1,)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_the_order_of_the_vocabularies_makes_no_difference(order: tuple[int, ...]):
    words = {
        "a": {"p": "1", "q": ["2", "3"], "r": "4", "s": "5"},
        "b": {"P": "1", "q": "2", "u": ["4", "5"], "w": "3"},
        "c": {"p": ["1", "6"], "Q": "2", "r": "4", "t": "6"},
    }
    names = {name: list(lists) for name, lists in words.items()}
    covers = {name: [frozenset(c) for c in lists.values()] for name, lists in words.items()}
    evidence = evidence_of(names, covers, miss=0.3, false=3)
    loose = LearnSettings(tau=0.9, max_pair_cost=0.6, max_set_cost=0.9)
    plain = learn_label_space(evidence, loose)
    starts = [0]
    for number in order:
        starts.append(starts[-1] + len(evidence[number].words))
    target = np.empty(12, dtype=int)
    for place, number in enumerate(order):
        target[4 * number : 4 * number + 4] = starts[place] + np.arange(4)
    moved = []
    for number in order:
        one, found = evidence[number], evidence[number].detections
        found = Detections(found.images, target[found.columns], found.boxes, found.scores)
        moved.append(Evidence(one.name, one.words, found, one.objects, one.num_images))
    other = learn_label_space(moved, loose)
    assert merges_of(other) == merges_of(plain) != set()
    assert other.choice.objective == pytest.approx(plain.choice.objective, abs=1e-12)
    assert len(other.candidates) == len(plain.candidates) > len(plain.merges)


def partitions(items: list[int]):
    if not items:
        yield []
        return
    first, *rest = items
    for smaller in partitions(rest):
        yield [[first], *smaller]
        for k, block in enumerate(smaller):
            yield [*smaller[:k], [first, *block], *smaller[k + 1 :]]


@pytest.mark.parametrize("seed", range(3))
def test_the_choice_is_the_best_of_all_partitions(seed: int):
    """Published objective by brute force: sum of |l| cost(l) over the labels, and lambda for every label."""
    words = {
        "a": {"p": ["1", "2"], "q": "2", "r": "3"},
        "b": {"p": "1", "q": ["2", "3"]},
        "c": {"p": ["1", "3"], "q": "2", "r": "3"},
    }
    loose = LearnSettings(tau=0.9, max_pair_cost=0.6, max_set_cost=0.9, penalty=0.3)
    space = learned(words, settings=loose, miss=0.3, false=2, seed=seed)
    cost = {frozenset(c.members): c.cost for c in space.candidates}
    assert len(cost) > 8
    best = min(
        sum(len(block) * cost[frozenset(block)] for block in partition if len(block) > 1) + 0.3 * len(partition)
        for partition in partitions(list(range(8)))
        if all(len(block) == 1 or frozenset(block) in cost for block in partition)
    )
    assert space.choice.objective + 0.3 * 8 == pytest.approx(best, abs=1e-9)
    assert len(space.labels) == 8 - sum(len(c.members) - 1 for c in space.merges)


@pytest.mark.parametrize("seed", range(5))
def test_program_equals_brute_force_on_random_sets(seed: int):
    rng = np.random.default_rng(seed)
    members = rng.random((9, 11)) < 0.25
    values = rng.normal(-0.2, 0.3, 11)
    best = min(
        (float(values[list(chosen)].sum()), chosen)
        for size in range(12)
        for chosen in itertools.combinations(range(11), size)
        if members[:, list(chosen)].sum(axis=1).max(initial=0) <= 1
    )
    choice = choose_sets(values, members)
    assert choice.objective == pytest.approx(best[0], abs=1e-12) and choice.is_optimal
    assert tuple(np.flatnonzero(choice.chosen)) == best[1]


def test_a_relaxed_program_would_take_halves():
    """Three words, each pair worth 1: the linear relaxation takes half of each (1.5), the program one."""
    members = np.array([[True, True, False], [True, False, True], [False, True, True]])
    choice = choose_sets(-np.ones(3), members)
    assert choice.chosen.sum() == 1 and choice.objective == -1 and choice.is_optimal
    assert not choose_sets(np.empty(0), np.zeros((3, 0), bool)).chosen.any()
    assert set_values(np.array([0.1]), np.array([3]), 0.5).tolist() == pytest.approx([3 * 0.1 - 0.5 * 2])


def test_time_that_does_not_suffice_is_said(monkeypatch: pytest.MonkeyPatch):
    from types import SimpleNamespace

    from mvseg.vocabulary.learning import program

    class Answer(SimpleNamespace):
        get = SimpleNamespace.__getattribute__

    found = Answer(x=np.array([1.0, 0.0, 0.0]), message="time limit", mip_dual_bound=-2 * program.SCALE)
    monkeypatch.setattr(program, "milp", lambda *args, **kwargs: found)
    members = np.array([[True, True, False], [True, False, True], [False, True, True]])
    choice = choose_sets(-np.ones(3), members, time_limit=1)
    assert not choice.is_optimal and (choice.objective, choice.bound) == (-1, -2)
    found.x = None
    with pytest.raises(RuntimeError, match=r"not solved within 1 s: time limit"):
        choose_sets(-np.ones(3), members, time_limit=1)


def test_the_worlds_true_aliases_are_found():
    """Three word lists of the drawn world, which says what every word covers; 24 things are enough to be quick."""
    lists = {name: word_list(name) for name in ("common", "objects", "open")}
    things = sorted(set(lists["common"].index) & set(lists["objects"].index))[:24]
    names, covers = {}, {}
    for name, words in lists.items():
        known = [k for k, covered in enumerate(words.covers) if set(covered) & set(things)]
        names[name] = [words.names[k] for k in known]
        covers[name] = [frozenset(words.covers[k]) & set(things) for k in known]
    space = learn_label_space(evidence_of(names, covers, images=150, per_image=5))
    meaning = [covered for name in lists for covered in covers[name]]
    label_of = {column: label for label in space.labels for column in label.members}
    expected = [
        (i, j)
        for i, j in itertools.combinations(range(len(meaning)), 2)
        if meaning[i] == meaning[j] and space.owner(i) is not space.owner(j)
    ]
    assert len(expected) > 40
    assert any(space.word(i).casefold() != space.word(j).casefold() for i, j in expected)
    assert all(label_of[i] is label_of[j] for i, j in expected)
    for label in space.labels:
        assert len({meaning[column] for column in label.members}) == 1


def test_written_words_can_be_read_back(tmp_path):
    space = learned({"a": {"picture, frame": "1", 'a "b"': "2"}, "b": {"picture/frame": "1", "c\td": "3"}})
    write_space(space, tmp_path)
    assert read_mapping(tmp_path / "mapping.csv") == {
        "picture, frame": {"a": ("picture, frame",), "b": ("picture/frame",)},
        'a "b"': {"a": ('a "b"',)},
        "c\td": {"b": ("c\td",)},
    }
    with pytest.raises(ValueError, match=r"cannot stand in .*mapping.csv: x\|y"):
        write_space(learned({"a": {"x|y": "1"}, "b": {"c": "3"}}), tmp_path)


def test_wrong_settings_and_evidence():
    with pytest.raises(ValueError, match=r"tau must be above 0 and at most 1, not 20"):
        LearnSettings(tau=20)
    with pytest.raises(ValueError, match=r"penalty must be above 0, not 0"):
        LearnSettings(penalty=0)
    with pytest.raises(ValueError, match=r"'present' or 'all', not 'some'"):
        LearnSettings(images="some")  # type: ignore[arg-type]
    (one, other) = evidence_of({"a": ["x"], "b": ["y"]}, {"a": [frozenset("1")], "b": [frozenset("2")]})
    with pytest.raises(ValueError, match=r"two or more vocabularies of different name, not from \['a'\]"):
        learn_label_space([one])
    with pytest.raises(ValueError, match=r"not from \['a', 'a'\]"):
        learn_label_space([one, one])
    far = Detections(np.zeros(1, int), np.array([2]), np.ones((1, 4)), np.ones(1))
    with pytest.raises(ValueError, match=r"evidence of 'b': detections of columns 2 to 2, but .* a, b have 2 words"):
        learn_label_space([one, Evidence("b", ("y",), far, other.objects, other.num_images)])


def test_costs_are_those_of_the_original_notebook():
    """Costs that the functions of UniDet_learn_labelspace_mAP (UniDet 94cd0e8, numba's compiler left out) gave here."""
    words = {
        "a": {"p": ["1", "2"], "q": "3", "r": "4"},
        "b": {"p": "1", "q": "3", "s": "5"},
        "c": {"p": ["1", "2"], "t": ["3", "6"], "r": "4"},
    }
    loose = LearnSettings(tau=0.6, max_pair_cost=0.6, max_set_cost=0.9)
    space = learned(words, settings=loose, images=80, miss=0.25, false=3, seed=3)
    assert {candidate.members: round(candidate.cost, 6) for candidate in space.candidates} == {
        (0, 3): -0.161161, (0, 3, 6): -0.522223, (0, 6): -0.345195, (1, 4): -0.382157, (1, 4, 7): -0.268768,
        (1, 7): -0.108302, (2, 8): -0.272692, (3, 6): -0.15103, (4, 7): -0.012333,
    }  # fmt: skip

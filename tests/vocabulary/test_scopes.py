"""Annotation scopes against hand cases and brute force: which columns an image and an object speak about."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvseg.modeling.objectives import RegionTargets
from mvseg.modeling.objectives.classification import SigmoidObjective
from mvseg.vocabulary import (
    AnnotationScopes,
    ImageFacts,
    LabelSpace,
    Scope,
    ScopeSettings,
    Vocabulary,
    build_scope,
    register_scope,
)
from mvseg.vocabulary.scopes.registry import SCOPES

# Columns: 0 cat 1 dog 2 couch | 3 Animal 4 Cat 5 Sofa 6 plant | 7 tabby 8 car
PETS = Vocabulary(name="pets", names=("cat", "dog", "couch"), synonyms=((), (), ("sofa",)), image_count=(4, 9, 0))
TREE = Vocabulary(
    name="tree",
    names=("Animal", "Cat", "Sofa", "plant"),
    parents=((), ("Animal",), (), ()),
    image_count=(1, 1, 100, 400),
)
FINE = Vocabulary(name="fine", names=("tabby", "car"), parents=(("cat",), ()))
ROWS = torch.eye(9)
ROWS[6] = ROWS[1] * 0.99 + ROWS[0] * 0.1  # "plant" is (wrongly) as good as "dog": cosine 0.995


def with_rows(vocabulary: Vocabulary, start: int) -> Vocabulary:
    return vocabulary.with_embeddings(ROWS[start : start + len(vocabulary)])


SPACE = LabelSpace.concatenate({"pets": with_rows(PETS, 0), "tree": with_rows(TREE, 3), "fine": with_rows(FINE, 7)})
BARE = LabelSpace.concatenate({"pets": PETS, "tree": TREE, "fine": FINE})
CAT, DOG, COUCH, ANIMAL, CAT2, SOFA, PLANT, TABBY, CAR = range(9)


def image(dataset: str, *classes: int, neg: list[int] | None = None, **lists: list[int]) -> ImageFacts:
    keys = {"not_exhaustive": "not_exhaustive_category_ids", "verified": "verified_category_ids"}
    named = {keys[key]: torch.tensor(columns) for key, columns in lists.items()}
    if neg is not None:
        named["neg_category_ids"] = torch.tensor(neg, dtype=torch.long)
    return ImageFacts(dataset, torch.tensor(classes, dtype=torch.long), named, f"dataset {dataset!r}, image 7")


def columns(mask: Tensor) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in mask]


def test_all_and_own():
    images = [image("pets", CAT), image("fine", TABBY), image("pets", not_exhaustive=[DOG])]
    assert build_scope("all", SPACE).mask(images).all()  # to the letter: also what is not exhaustive
    assert columns(build_scope("own", SPACE).mask(images)) == [{CAT, DOG, COUCH}, {TABBY, CAR}, {CAT, COUCH}]
    assert build_scope("own", SPACE).mask([]).shape == (0, 9)


def test_own_in_shared_columns():
    space = LabelSpace.merge_names({"tree": TREE, "pets": PETS})  # Animal Cat Sofa plant dog couch
    own = build_scope("own", space).mask([image("pets"), image("tree"), image("pets")])
    assert own.dtype == torch.bool
    assert columns(own) == [{1, 4, 5}, {0, 1, 2, 3}, {1, 4, 5}]
    with pytest.raises(KeyError, match=r"no dataset 'c'"):
        build_scope("own", space).mask([image("c")])


def test_safe():
    scope = build_scope("safe", SPACE)
    assert columns(scope.mask([image("tree", CAT2, not_exhaustive=[PLANT])])) == [{ANIMAL, CAT2, SOFA}]
    assert columns(scope.negative) == [
        {SOFA, PLANT, CAR},  # cat: not the words above, below, or equal
        {ANIMAL, CAT2, SOFA, TABBY, CAR},  # dog: not the plant, whose embedding is alike
        {ANIMAL, CAT2, PLANT, TABBY, CAR},  # couch: not the sofa, a synonym
        {DOG, COUCH, CAR},  # Animal: dog says no parents, so nobody knows that it is one
        {DOG, COUCH, CAR},  # Cat
        {CAT, DOG, TABBY, CAR},  # Sofa
        {CAT, COUCH, TABBY, CAR},  # plant
        {DOG, COUCH, SOFA, PLANT},  # tabby
        {CAT, DOG, COUCH, ANIMAL, CAT2, SOFA, PLANT},  # car
    ]
    with pytest.raises(
        ValueError, match=r"ANNOTATION_SCOPE safe needs text embeddings, but pets, tree, fine have none"
    ):
        build_scope("safe", BARE)


def test_safe_equals_brute_force():
    sizes, threshold = [5, 4, 6], 0.3
    vocabularies = {
        f"d{k}": Vocabulary(name=f"d{k}", names=tuple(f"{k}.{i}" for i in range(size)), embeddings=torch.randn(size, 4))
        for k, size in enumerate(sizes)
    }
    vocabularies["d0_val"] = vocabularies["d0"]
    space = LabelSpace.concatenate(vocabularies)
    owner = [k for k, size in enumerate(sizes) for _ in range(size)]
    negative = build_scope("safe", space, settings=ScopeSettings(safe_threshold=threshold)).negative
    for i in range(15):
        for j in range(15):
            a, b = space.embeddings[i], space.embeddings[j]
            cosine = float(a @ b / a.norm() / b.norm())
            assert bool(negative[i, j]) == (owner[i] != owner[j] and cosine < threshold)


def test_federated():
    settings = ScopeSettings(federated_columns=3)
    scope = build_scope("federated", SPACE, ["pets", "tree"], settings)
    images = [image("tree", ANIMAL), image("pets", CAT), image("tree", CAT2, not_exhaustive=[CAT2])]
    hits = torch.zeros(9)
    for _ in range(600):
        first, second, third = columns(scope.mask(images))
        assert first >= {ANIMAL, CAT2} and len(first) == 3 and third == first - {CAT2}  # drawn once for each dataset
        assert second == {CAT, DOG}  # couch has no image
        hits[list(first)] += 1
    drawn = hits[[SOFA, PLANT]] / 600  # frequencies 100 and 400: roots 10 and 20
    assert drawn.tolist() == pytest.approx([1 / 3, 2 / 3], abs=0.07)
    with pytest.raises(ValueError, match=r"federated.*vocabulary 'fine' of dataset 'fine' has none"):
        build_scope("federated", SPACE)


def test_federated_keeps_more_classes_than_it_would_draw():
    scope = build_scope("federated", SPACE, ["tree"], ScopeSettings(federated_columns=1))
    assert columns(scope.mask([image("tree", ANIMAL, CAT2), image("tree")])) == [{ANIMAL, CAT2}] * 2


def test_verified():
    scope = build_scope("verified", SPACE)
    images = [
        image("tree", ANIMAL, CAT2, neg=[SOFA], not_exhaustive=[CAT2]),
        image("tree", neg=[]),
        image("tree", CAT2, verified=[ANIMAL]),
    ]
    assert columns(scope.mask(images)) == [{ANIMAL, SOFA}, set(), {ANIMAL, CAT2}]
    with pytest.raises(
        ValueError, match=r"neg_category_ids and verified_category_ids.*dataset 'pets', image 7 has nei"
    ):
        scope.mask([*images, image("pets", CAT)])


def test_hierarchy():
    scope = build_scope("hierarchy", SPACE)
    up = [{ANIMAL}, set(), set(), set(), {ANIMAL}, set(), set(), {CAT, CAT2, ANIMAL}, set()]
    assert columns(scope.positive) == up
    assert torch.equal(scope.ignored, scope.positive.t())
    assert columns(scope.mask([image("tree", CAT2)])) == [{ANIMAL, CAT2, SOFA, PLANT}]
    flat = LabelSpace.concatenate({"pets": PETS})
    with pytest.raises(ValueError, match=r"hierarchy needs vocabularies with parents, but of pets no word"):
        build_scope("hierarchy", flat)


def test_group():
    scope = build_scope("group", SPACE)
    background = 9
    expected = {
        # Cat joins cat (same word), Sofa couch (synonym), plant dog (cosine), tabby cat (below); Animal nothing
        "pets": [0, 1, 2, background, CAT, COUCH, DOG, CAT, background, background],
        "tree": [CAT2, PLANT, SOFA, 3, 4, 5, 6, CAT2, background, background],  # tabby: below Cat and Animal
        "fine": [background] * 7 + [7, 8, background],
    }
    assert {dataset: group.tolist() for dataset, group in scope.groups.items()} == expected
    assert build_scope("group", BARE).groups["pets"].tolist()[PLANT] == background  # without embeddings: words only
    assert columns(scope.mask([image("pets", not_exhaustive=[DOG])])) == [set(range(9)) - {DOG}]


def test_scopes_joined():
    scope = build_scope("verified + hierarchy", SPACE)
    assert columns(scope.mask([image("tree", CAT2, neg=[SOFA])])) == [{CAT2, SOFA}]
    assert torch.equal(scope.positive, SPACE.ancestors()) and scope.negative is None
    scope = build_scope("safe+hierarchy", SPACE)
    assert not (scope.negative & (scope.positive | scope.ignored)).any()


def test_unknown_scope():
    with pytest.raises(ValueError, match=r"'owner'; there are all, own, safe, federated, verified, hierarchy, group"):
        build_scope("safe+owner", SPACE)


def test_a_new_scope_is_one_function(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mvseg.vocabulary.scopes.registry.SCOPES", dict(SCOPES))

    @register_scope("nothing")
    def nothing(space: LabelSpace, datasets: list[str], settings: ScopeSettings) -> Scope:
        return Scope(lambda images: torch.zeros(len(images), space.n, dtype=torch.bool))

    scopes = AnnotationScopes(SPACE, "own", {"fine": "nothing"})
    assert columns(scopes.of([image("pets"), image("fine")]).mask) == [{CAT, DOG, COUCH}, set()]
    with pytest.raises(ValueError, match=r"'own' is taken"):
        register_scope("own")(nothing)


def test_a_scope_for_each_dataset():
    scopes = AnnotationScopes(SPACE, "own", {"pets": "safe", "tree": "verified+hierarchy"})
    found = scopes.of([image("tree", CAT2, neg=[]), image("fine"), image("pets", CAT)])
    assert columns(found.mask) == [{CAT2}, {TABBY, CAR}, {CAT, DOG, COUCH}]
    safe, tree = build_scope("safe", SPACE), build_scope("hierarchy", SPACE)
    first = found.first_rule.tolist()
    assert first[1] == -1 and len(scopes.rules.positive) == 2 * 9 + 1
    for kind, of_tree, of_pets in (
        ("positive", tree.positive, torch.zeros(9, 9).bool()),
        ("negative", torch.zeros(9, 9).bool(), safe.negative),
        ("ignored", tree.ignored, torch.zeros(9, 9).bool()),
    ):
        table = getattr(scopes.rules, kind)
        assert torch.equal(table[first[0] : first[0] + 9], of_tree)
        assert torch.equal(table[first[2] : first[2] + 9], of_pets)
        assert not table[-1].any()
    assert found.groups is None
    plain = AnnotationScopes(SPACE, "all").of([image("pets"), image("tree")])
    assert (plain.mask, plain.first_rule, plain.groups) == (None, None, None)
    mixed = AnnotationScopes(SPACE, "own", {"pets": "group"}).of([image("fine"), image("pets")])
    assert mixed.groups[0].tolist() == list(range(10))
    assert mixed.groups[1].tolist() == build_scope("group", SPACE).groups["pets"].tolist()


def descend(parents: dict[str, tuple[str, ...]], word: str) -> set[str]:
    """All words that a word is a kind of, by walking up."""
    found: set[str] = set()
    waiting = list(parents[word])
    while waiting:
        above = waiting.pop()
        if above not in found:
            found.add(above)
            waiting += parents.get(above, ())
    return found


@pytest.mark.parametrize("table", [None, "openimages_500"])
@pytest.mark.parametrize("unified", [False, True])
def test_own_hierarchy_is_the_formula_of_unidet(table: str | None, unified: bool):
    """Targets y + y A and weights 1 - D[y] over the dataset's classes, computed word by word; other columns nothing."""
    fine = Vocabulary(
        name="fine",
        names=("animal", "cat", "dog", "tabby", "car", "sofa"),
        parents=((), ("animal",), ("animal",), ("cat",), (), ("furniture",)),
    )
    vocabulary = fine if table is None else Vocabulary.from_table(table)
    others = {"pets": PETS, "coco": Vocabulary.from_table("coco")}  # with parents and words of their own
    make = LabelSpace.merge_names if unified else LabelSpace.concatenate
    space = make({**others, "tree": vocabulary})
    scopes = AnnotationScopes(space, "own", {"tree": "own_hierarchy"})
    parents = {n: tuple(p) for n, p in zip(vocabulary.names, vocabulary.parents, strict=True)}
    parents |= {w: tuple(p) for w, p in vocabulary.hypernyms.items() if w not in parents}
    column = dict(zip(vocabulary.names, space.columns("tree").tolist(), strict=True))
    above = {n: descend(parents, n) & set(column) for n in column}
    found = scopes.of([image("tree")])
    names = vocabulary.names if table is None else vocabulary.names[::17]
    classes = torch.tensor([column[n] for n in names] + [space.n])  # and background
    targets = RegionTargets(
        classes, torch.zeros(len(classes), dtype=torch.long), found.mask, None, scopes.rules, found.first_rule
    )
    expected = torch.zeros(len(classes), space.n, dtype=torch.bool)
    positive = expected.clone()
    for row, name in enumerate([*names, None]):
        for other, at in column.items():
            expected[row, at] = name is None or name not in above[other]  # weight 1 - descendants; siblings stay
            positive[row, at] = name is not None and (other == name or other in above[name])
    assert torch.equal(targets.scope_of(None), expected)
    own = torch.nn.functional.one_hot(classes, space.n + 1)[:, :-1].bool()
    assert torch.equal(targets.positives_of(None) | own, positive)
    if table is None:  # the loss itself, in float64
        logits = torch.randn(len(classes), space.n, dtype=torch.float64)
        loss = SigmoidObjective(space.n).losses(logits, targets, None)["loss_cls"]
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, positive.double(), reduction="none")
        torch.testing.assert_close(loss, (each * expected).sum() / len(classes))


def test_own_hierarchy_of_several_datasets():
    """Each vocabulary has tables of its own, also where columns are shared; train and val share theirs."""
    one = Vocabulary(name="one", names=("animal", "cat"), parents=((), ("animal",)))
    two = Vocabulary(name="two", names=("pet", "cat"), parents=((), ("pet",)))
    space = LabelSpace.merge_names({"one": one, "two": two, "one_val": one})  # animal cat pet
    scopes = AnnotationScopes(space, "own_hierarchy")
    assert len(scopes.rules.positive) == 2 * 3 + 1
    found = scopes.of([image("one"), image("two"), image("one_val")])
    first = found.first_rule.tolist()
    assert first[0] == first[2] != first[1]
    assert scopes.rules.positive[first[0] + 1].tolist() == [True, False, False]
    assert scopes.rules.positive[first[1] + 1].tolist() == [False, False, True]
    assert scopes.rules.ignored[first[1] + 2].tolist() == [False, True, False]
    with pytest.raises(ValueError, match="built for the datasets of one vocabulary"):
        build_scope("own_hierarchy", space)
    with pytest.raises(ValueError, match=r"needs a vocabulary with parents, but in 'pets' of dataset 'pets'"):
        AnnotationScopes(LabelSpace.concatenate({"pets": PETS}), "own_hierarchy")

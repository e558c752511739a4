"""Merging by mapping and by similarity, the similarity matrix in blocks, aliases and ancestors across datasets."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from torch.overrides import TorchFunctionMode

from mvseg.vocabulary import AnnotationScopes, ImageFacts, LabelSpace, Vocabulary, read_mapping
from mvseg.vocabulary.similarity import similar_pairs, similarity_range, unit_rows


def space_of(**words: list[str]) -> LabelSpace:
    return LabelSpace.concatenate({name: Vocabulary(name=name, names=tuple(found)) for name, found in words.items()})


def random_space(*sizes: int, width: int = 6) -> LabelSpace:
    vocabularies = {
        f"d{number}": Vocabulary(
            name=f"d{number}", names=tuple(f"{number}.{i}" for i in range(size)), embeddings=torch.randn(size, width)
        )
        for number, size in enumerate(sizes)
    }
    return LabelSpace.concatenate(vocabularies)


def cosines_of(space: LabelSpace) -> torch.Tensor:
    rows = space.embeddings.double()
    return torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)


# --- similarity ---


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_similarity_in_blocks_equals_the_whole(block: int):
    space = random_space(4, 3)
    expected = cosines_of(space)
    torch.testing.assert_close(space.similarity(block=block).double(), expected, rtol=0, atol=1e-6)
    off = expected[~torch.eye(7, dtype=torch.bool)]
    limits = similarity_range(unit_rows(space.embeddings), block)
    assert (limits.minimum, limits.mean, limits.maximum) == pytest.approx(
        (float(off.min()), float(off.mean()), float(off.max())), abs=1e-6
    )
    minmax = (expected - off.min()) / (1 - off.min())
    centered = ((expected - off.mean()) / (1 - off.mean())).clamp(min=0)
    torch.testing.assert_close(space.similarity("minmax", block).double(), minmax, rtol=0, atol=1e-5)
    torch.testing.assert_close(space.similarity("centered", block).double(), centered, rtol=0, atol=1e-5)
    rows = torch.tensor([5, 0])
    torch.testing.assert_close(space.similarity_rows(rows, "centered").double(), centered[rows], rtol=0, atol=1e-5)
    halved = space.similarity_rows(rows, "minmax", dtype=torch.bfloat16)
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.double(), minmax[rows], rtol=0.01, atol=0.01)
    pairs, values = similar_pairs(unit_rows(space.embeddings), 0.3, block)
    wanted = [(i, j) for i, j in itertools.combinations(range(7), 2) if expected[i, j] >= 0.3]
    assert [tuple(pair) for pair in pairs.tolist()] == wanted
    assert values.tolist() == pytest.approx([float(expected[i, j]) for i, j in wanted], abs=1e-6)


class LargestMade(TorchFunctionMode):
    numel = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


def test_many_words_need_no_square_of_them():
    space = random_space(2000, 1000)
    with LargestMade() as largest:
        space.similarity_rows(torch.arange(10), "minmax")
        assert largest.numel <= 1024 * 3000
        largest.numel = 0
        similar_pairs(unit_rows(space.embeddings), 0.999, block=50)
        assert largest.numel <= 50 * 3000


def test_words_that_are_all_alike_and_a_word_alone():
    same = Vocabulary(name="same", names=("a", "b"), embeddings=torch.ones(2, 3))
    one = Vocabulary(name="one", names=("a",), embeddings=torch.ones(1, 3))
    for vocabulary in (same, one):
        space = LabelSpace.concatenate({"d": vocabulary})
        for kind in (None, "minmax", "centered"):
            torch.testing.assert_close(space.similarity(kind), torch.ones(len(vocabulary), len(vocabulary)))
    with pytest.raises(ValueError, match=r"'max'.*minmax, centered"):
        LabelSpace.concatenate({"d": same}).similarity("max")
    with pytest.raises(ValueError, match=r"similarity of columns needs text embeddings.*\ba\b"):
        space_of(a=["x"]).similarity()


# --- merging ---

A = Vocabulary(name="va", names=("cat", "dog", "couch"), embeddings=torch.eye(3))
B = Vocabulary(name="vb", names=("kitten", "sofa", "settee", "dog"), embeddings=torch.ones(4, 3))
MAPPING = {"feline": {"va": "cat", "b": "kitten"}, "seat": {"a": ["couch"], "vb": ["sofa", "settee"]}}


def test_merge_mapping_by_hand():
    space = LabelSpace.merge_mapping({"a": A, "b": B, "a_val": A}, MAPPING)
    assert space.names == ("feline", "seat", "dog", "dog")
    assert space.columns("a").tolist() == space.columns("a_val").tolist() == [0, 2, 1]
    assert space.columns("b").tolist() == [0, 1, 1, 3]
    assert space.embeddings[:3].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]  # those of a, the first dataset


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (".csv", 'unified,a,vb\nfeline,cat,kitten\n\n"seat",couch,sofa|settee\n'),
        (".tsv", "unified\ta\tvb\nfeline\tcat\tkitten\n#no\tx\ty\nseat\tcouch\tsofa | settee\n"),
        (".yaml", "feline: {a: cat, vb: kitten}\nseat: {a: couch, vb: [sofa, settee]}\n"),
    ],
)
def test_mapping_files(tmp_path, ending: str, text: str):
    path = tmp_path / f"map{ending}"
    path.write_text(text)
    assert read_mapping(path)["seat"] == {"a": ("couch",), "vb": ("sofa", "settee")}
    by_file = LabelSpace.merge_mapping({"a": A, "b": B}, path)
    by_hand = LabelSpace.merge_mapping({"a": A, "b": B}, MAPPING)
    assert by_file.names == by_hand.names
    assert all(torch.equal(by_file.columns(d), by_hand.columns(d)) for d in "ab")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("unified,a\nfeline,catt\n", r"map.csv: 'feline', 'a'.*'catt'.*nearest: cat"),
        ("unified,a\nx,cat\ny,cat\n", r"'cat' of 'a' is in 'x' and in 'y'"),
        ("unified,a\nx,cat\nx,dog\n", r"row 2: unified word 'x' is there twice"),
        ("unified,a\nx,cat,dog\n", r"row 1 has 3 cells, the header has 2"),
        ("unified,z\nx,cat\n", r"speaks of z, none of a"),
        ("cat\n", r"expected a header row"),
    ],
)
def test_wrong_mappings(tmp_path, text: str, complaint: str):
    path = tmp_path / "map.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        LabelSpace.merge_mapping({"a": A}, path)


def test_mapping_of_the_wrong_form(tmp_path):
    for tree, complaint in (
        ({"x": ["cat"]}, "expected dataset -> word"),
        ({"x": {"a": 3}}, "expected a word or a list"),
    ):
        with pytest.raises(ValueError, match=complaint):
            LabelSpace.merge_mapping({"a": A}, tree)
    with pytest.raises(FileNotFoundError, match=r"none.csv does not exist"):
        read_mapping(tmp_path / "none.csv")
    (tmp_path / "map.txt").write_text("x")
    with pytest.raises(ValueError, match=r"ends in .csv, .tsv"):
        read_mapping(tmp_path / "map.txt")


def merged_by_hand(space: LabelSpace, sizes: list[int], threshold: float) -> set[frozenset[int]]:
    """The same greedy rule, written with sets of sets over the whole matrix."""
    owner = [k for k, size in enumerate(sizes) for _ in range(size)]
    cosines = space.similarity()
    groups = {frozenset([i]) for i in range(len(owner))}
    pairs = sorted(itertools.combinations(range(len(owner)), 2), key=lambda p: -float(cosines[p]))
    for i, j in pairs:
        one, two = (next(g for g in groups if k in g) for k in (i, j))
        owners = [owner[k] for k in one | two]
        if float(cosines[i, j]) >= threshold and one != two and len(set(owners)) == len(owners):
            groups = (groups - {one, two}) | {one | two}
    return groups


@pytest.mark.parametrize("seed", range(4))
def test_merge_similar_equals_brute_force(seed: int):
    torch.manual_seed(seed)
    sizes = [5, 6, 4]
    plain = random_space(*sizes, width=3)
    merged = LabelSpace.merge_similar(plain.vocabularies, 0.8, block=4)
    columns = torch.cat([merged.columns(d) for d in merged.datasets]).tolist()
    groups = {frozenset(i for i, c in enumerate(columns) if c == column) for column in columns}
    assert groups == merged_by_hand(plain, sizes, 0.8)
    assert merged.n < plain.n
    for dataset in merged.datasets:  # no two words of one vocabulary in one column
        assert len(set(merged.columns(dataset).tolist())) == len(merged.vocabularies[dataset])
    firsts = [columns.index(c) for c in range(merged.n)]
    assert firsts == sorted(firsts)
    assert merged.names == tuple(plain.names[i] for i in firsts)
    assert torch.equal(merged.embeddings, plain.embeddings[firsts])


def test_merge_similar_says_what_is_missing():
    plain = Vocabulary(name="plain", names=("x",))
    with pytest.raises(ValueError, match=r"embeddings.*dataset 'd'.*'plain'"):
        LabelSpace.merge_similar({"a": A, "d": plain})
    with pytest.raises(ValueError, match=r"MERGE_THRESHOLD 98"):
        LabelSpace.merge_similar({"a": A}, 98)
    wide = Vocabulary(name="wide", names=("x",), embeddings=torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"one width; found a: 3, w: 4"):
        LabelSpace.merge_similar({"a": A, "w": wide})


# --- aliases and ancestors ---


def test_aliases_by_name_synonym_and_cosine():
    rows = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    one = Vocabulary(name="one", names=("couch", "Traffic_Light", "pup"), synonyms=(("sofa",), (), ()), embeddings=rows)
    two = Vocabulary(name="two", names=("sofa", "traffic light", "puppy", "dog"), embeddings=rows[[0, 1, 2, 2]])
    space = LabelSpace.concatenate({"x": one, "y": two, "x_val": one})
    found = [(a.first, a.second, a.reason) for a in space.aliases()]
    assert found == [(0, 3, "synonym"), (1, 4, "name")]
    found = [(a.first, a.second, a.reason, a.similarity) for a in space.aliases(0.9)]
    assert found == [
        (0, 3, "synonym", 1.0), (1, 4, "name", 1.0), (2, 5, "similar", 1.0), (2, 6, "similar", 1.0)
    ]  # fmt: skip
    assert [a.similarity for a in space_of(a=["cat"], b=["Cat"]).aliases()] == [None]
    with pytest.raises(ValueError, match=r"aliases by similarity needs text embeddings"):
        space_of(a=["cat"]).aliases(0.9)


def test_two_words_of_one_vocabulary_are_no_aliases():
    same = Vocabulary(name="v", names=("bat", "club"), synonyms=((), ("bat",)), embeddings=torch.ones(2, 2))
    space = LabelSpace.concatenate({"d": same})
    assert space.aliases(0.5) == []


def test_ancestors_lead_across_datasets_and_outside_words():
    coco = Vocabulary(name="coco", names=("cat", "couch"), synonyms=((), ("sofa",)))
    oid = Vocabulary(
        name="oid",
        names=("Animal", "Cat", "Sofa", "Furniture"),
        parents=((), ("Carnivore",), ("Furniture",), ()),
        hypernyms={"Carnivore": ("Mammal",), "Mammal": ("Animal",)},
    )
    fine = Vocabulary(
        name="fine", names=("tabby", "living thing"), parents=(("cat",), ()), hypernyms={"animal": ("living thing",)}
    )
    space = LabelSpace.concatenate({"coco": coco, "oid": oid, "fine": fine})
    table = space.ancestors()
    words = [f"{d}:{w}" for d in space.datasets for w in space.vocabularies[d].names]
    found = {words[i]: {words[j] for j in row.nonzero().flatten().tolist()} for i, row in enumerate(table)}
    assert found == {
        "coco:cat": {"oid:Animal", "fine:living thing"},
        "coco:couch": {"oid:Furniture"},
        "oid:Animal": {"fine:living thing"},
        "oid:Cat": {"oid:Animal", "fine:living thing"},
        "oid:Sofa": {"oid:Furniture"},
        "oid:Furniture": set(),
        "fine:tabby": {"coco:cat", "oid:Cat", "oid:Animal", "fine:living thing"},
        "fine:living thing": set(),
    }
    assert not space_of(a=["cat"], b=["cat"]).ancestors().any()


def test_words_above_each_other_are_no_ancestors():
    one = Vocabulary(name="one", names=("bug",), parents=(("insect",),))
    two = Vocabulary(name="two", names=("insect",), parents=(("bug",),))
    assert not LabelSpace.concatenate({"x": one, "y": two}).ancestors().any()


# --- mistakes of people ---


def test_what_is_there_twice_is_an_error(tmp_path):
    for ending, text, complaint in (
        (".yaml", "x: {a: cat}\nx: {a: dog}\n", r"not valid YAML: 'x' is there twice"),
        (".yaml", "x: {a: cat, a: dog}\n", r"not valid YAML: 'a' is there twice"),
        (".csv", "unified,a,a\nx,cat,dog\n", r"the header has dataset 'a' twice"),
    ):
        path = tmp_path / f"map{ending}"
        path.write_text(text)
        with pytest.raises(ValueError, match=complaint):
            read_mapping(path)


def test_a_misspelled_dataset_is_said(caplog):
    with caplog.at_level("WARNING"):
        LabelSpace.merge_mapping({"streets": A, "b": B}, {"feline": {"street": "cat", "vb": "kitten"}})
    assert "no dataset or vocabulary in use is named street; nearest: streets" in caplog.text


def test_one_word_for_two_things_and_two_words_for_one():
    """Of a set that tells two mice apart, the mapping says which of them a plain mouse is."""
    plain = Vocabulary(name="plain", names=("mouse", "sofa"))
    fine = Vocabulary(name="fine", names=("Mouse (animal)", "Computer mouse", "couch", "settee"))
    words = {"computer mouse": {"plain": "mouse", "fine": "Computer mouse"}}
    space = LabelSpace.merge_mapping({"p": plain, "f": fine}, words | {"sofa": {"p": "sofa", "f": "couch|settee"}})
    assert space.columns("p").tolist() == [0, 1] and space.columns("f").tolist() == [2, 0, 1, 1]
    with pytest.raises(ValueError, match=r"'mouse' of 'p' is in 'computer mouse' and in 'rodent'"):
        LabelSpace.merge_mapping({"p": plain, "f": fine}, words | {"rodent": {"p": "mouse", "f": "Mouse (animal)"}})


def test_one_word_for_two_things_stays_two_where_a_mapping_says_so():
    """Equal spellings are one word for merge_names, which cannot know better; a mapping by hand can."""
    animals = Vocabulary(name="animals", names=("bat", "cat"))
    sports = Vocabulary(name="sports", names=("bat", "ball"))
    assert LabelSpace.merge_names({"a": animals, "s": sports}).n == 3
    words = {"bat (animal)": {"a": "bat"}, "baseball bat": {"s": "bat"}}
    apart = LabelSpace.merge_mapping({"a": animals, "s": sports}, words)
    assert apart.n == 4 and set(apart.columns("a").tolist()).isdisjoint(apart.columns("s").tolist())
    assert {"bat (animal)", "baseball bat"} <= set(apart.names)


def test_one_class_and_nothing_in_common():
    """A dataset of one class, which shares no word with the others: every image has its own columns only."""
    vocabularies = {
        "faces": Vocabulary(name="faces", names=("face",), embeddings=torch.eye(4)[:1]),
        "pets": Vocabulary(name="pets", names=("cat", "dog"), embeddings=torch.eye(4)[1:3]),
    }
    for space in (LabelSpace.merge_names(vocabularies), LabelSpace.merge_similar(vocabularies, 0.5)):
        assert space.n == 3 and not space.aliases()
        images = [ImageFacts(dataset=d, classes=space.columns(d)[:1]) for d in vocabularies]
        mask = AnnotationScopes(space, "own").of(images).mask
        assert mask.sum(1).tolist() == [1, 2] and not (mask[0] & mask[1]).any()
        safe = AnnotationScopes(space, "safe").of(images).mask
        assert safe.tolist() == mask.tolist()


def test_parents_in_a_circle():
    with pytest.raises(ValueError, match=r"vocabulary 'v': the parents go round in a circle: a -> b -> c -> a"):
        Vocabulary(name="v", names=("x", "a", "b", "c"), parents=(("a",), ("b",), ("C",), ("A",)))
    with pytest.raises(ValueError, match=r"in a circle: canine -> dog -> canine"):
        Vocabulary(name="v", names=("dog", "cat"), parents=(("canine",), ()), hypernyms={"Canine": ("dog",)})
    twice = Vocabulary(name="v", names=("a", "b", "c", "d"), parents=(("b", "c"), ("d",), ("d",), ()))  # no circle
    assert twice.ancestors("a") == ("b", "c", "d")


def test_forty_datasets_at_once():
    """Label space, ancestors, aliases and a scope of 40 vocabularies of 100 words, in seconds."""
    vocabularies = {
        f"d{k}": Vocabulary(
            name=f"v{k}",
            names=tuple(f"word {(37 * k + i) % 1500}" for i in range(100)),
            parents=tuple(
                (f"word {((37 * k + i) % 1500) // 2}",) if (37 * k + i) % 1500 > 1 else () for i in range(100)
            ),
            embeddings=torch.randn(100, 16),
        )
        for k in range(40)
    }
    started = time.process_time()
    space = LabelSpace.concatenate(vocabularies)
    names = LabelSpace.merge_names(vocabularies)
    mapping = LabelSpace.merge_mapping(
        vocabularies, {f"u{i}": {"d0": f"word {i}", "v1": f"word {i}"} for i in range(37, 90)}
    )
    LabelSpace.merge_similar(vocabularies, 0.95)
    assert (space.n, mapping.n) == (4000, 4000 - 53) and names.n < 1501
    assert space.ancestors().any() and len(space.aliases()) > 1000
    scopes = AnnotationScopes(space, "safe")
    images = [ImageFacts(dataset=f"d{k}", classes=torch.tensor([k])) for k in range(40)]
    assert scopes.of(images).mask.sum(1).tolist() == [100] * 40
    assert time.process_time() - started < 20

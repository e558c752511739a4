"""Detic's and CenterNet2's files: what is recognised, mapped, left over and missing, and what is refused."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_models import (
    Shapes,
    centernet2_r18,
    convnext_tiny,
    detic,
    detic_c4,
    detic_r18,
    swin,
    timm_resnet,
    weights_of,
)
from torch import Tensor

from mvseg.checkpoints import AtomicCheckpointer
from mvseg.checkpoints.__main__ import main
from mvseg.checkpoints.foreign import ForeignFile, read_foreign_file
from mvseg.checkpoints.importing import ImportResult, import_weights, read_passport
from mvseg.checkpoints.importing.comparison import compare, expected_state
from mvseg.checkpoints.readers import READERS, Part, Reader, Rule, Unrecognised, get_reader
from mvseg.config import load_config
from mvseg.inference import Predictor
from mvseg.vocabulary import Vocabulary
from mvseg.vocabulary.embedding_files import save_embeddings

LVIS = Vocabulary.from_table("lvis_v1")


@pytest.fixture(scope="module")
def detic_weights() -> dict[str, Tensor]:
    return weights_of(detic_r18(), LVIS.image_counts())


@pytest.fixture(scope="module")
def detic_file(detic_weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "Detic_R18.pth"
    torch.save({"model": detic_weights, "iteration": 179999, "optimizer": {"state": {}}}, path)
    return path


@pytest.fixture(scope="module")
def imported(detic_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ImportResult, Path]:
    target = tmp_path_factory.mktemp("imported") / "detic_r18.pth"
    return import_weights("detic", detic_file, target), target


def in_memory(weights: dict[str, Tensor]) -> ForeignFile:
    return ForeignFile(Path("file.pth"), 1, "0" * 64, weights, (), None, "")


def test_every_entry_is_mapped_or_left_over_for_a_reason(imported: tuple[ImportResult, Path], detic_weights: dict):
    rows = imported[0].rows
    assert sorted(row.source for row in rows) == sorted(detic_weights)
    left = Counter(row.source.rsplit(".", 1)[1] for row in rows if row.state == "left over")
    assert left == {"num_batches_tracked": 20, "zs_weight": 3, "freq_weight": 3}
    assert all(row.why for row in rows if row.state == "left over")
    assert "183 mapped, 26 left over, 0 missing" in imported[0].describe()
    assert "ResNet-18 (timm)" in imported[0].describe()


def test_the_checkpoint_holds_the_files_values(imported: tuple[ImportResult, Path], detic_weights: dict):
    content = torch.load(imported[1], weights_only=True)
    for row in imported[0].rows:
        if row.state == "mapped":
            assert torch.equal(content["model"][row.target], detic_weights[row.source]), row
    assert "roi_heads.box_predictor.2.cls_score.linear.weight" in content["model"]


def test_the_config_builds_the_model_with_the_words_and_loads_all(
    imported: tuple[ImportResult, Path], detic_weights: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # paths in the config are those beside it
    target = imported[1]
    predictor = Predictor(target.with_suffix(".yaml"), score_threshold=0.0, device="cpu")
    heads = predictor.model.roi_heads
    assert predictor.vocabulary.names == LVIS.names
    rows = heads.box_predictor[0].cls_score.rows
    torch.testing.assert_close(rows, detic_weights["roi_heads.box_predictor.0.cls_score.zs_weight"][:, :-1].t())
    checkpointer = AtomicCheckpointer(predictor.model, save_to_disk=False)
    checkpointer.load(str(target))
    assert checkpointer.report.complete and not checkpointer.report.unexpected
    cfg = load_config(target.with_suffix(".yaml"))
    assert cfg.MODEL.CLASSIFIER.LOSS == "federated" and cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.MASK_ON
    found = predictor([np.full((64, 64, 3), 127, np.uint8)])[0]
    assert len(found) and found.pred_classes.max() < 1203


def test_passport(imported: tuple[ImportResult, Path], detic_file: Path, capsys: pytest.CaptureFixture):
    passport = read_passport(imported[1])
    assert passport["sha256"] == hashlib.sha256(detic_file.read_bytes()).hexdigest()
    assert passport["source"] == "Detic_R18.pth" and passport["iteration"] == 179999
    assert passport["bytes"] == detic_file.stat().st_size and passport["words"] == "lvis_v1"
    assert passport["sha256"] in imported[1].with_suffix(".yaml").read_text()
    main(["show", str(imported[1])])
    assert passport["sha256"] in capsys.readouterr().out
    with pytest.raises(ValueError, match="not written by"):
        read_passport(detic_file)


def test_command_and_table(detic_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    target, table = tmp_path / "out.pth", tmp_path / "table.tsv"
    main(["detic", str(detic_file), str(target), "--table", str(table)])
    shown = capsys.readouterr().out
    assert "taken for lvis_v1 (its image counts agree)" in shown and str(target) in shown
    lines = [line.split("\t") for line in table.read_text().splitlines()]
    assert len(lines) == 1 + 183 + 26 and all(len(line) == 5 for line in lines)
    before = target.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite"):
        main(["detic", str(detic_file), str(target)])
    with pytest.raises(FileExistsError):
        main(["detic", str(detic_file), str(detic_file)])
    with pytest.raises(ValueError, match="file to read"):
        main(["detic", str(detic_file), str(detic_file), "--overwrite"])
    main(["detic", str(detic_file), str(target), "--overwrite"])
    assert target.read_bytes() == before
    with pytest.raises(ValueError, match=r"end in \.pth"):
        main(["detic", str(detic_file), str(tmp_path / "out.pkl")])


ARCHITECTURES = {
    "swin": (detic(swin(), (192, 384, 768)), "Swin-T", "build_swin_fpn_backbone"),
    "convnext": (detic(convnext_tiny(), (192, 384, 768)), "convnext_tiny", "build_timm_fpn_backbone"),
    "c4": (detic_c4(), "C4", "build_resnet_backbone"),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures_fit_the_model_they_name(name: str):
    shapes, what, builder = ARCHITECTURES[name]
    weights = weights_of(shapes)
    translation = get_reader("detic").read(shapes)
    assert what in translation.what[0] and translation.config["MODEL.BACKBONE.NAME"] == builder
    expected = expected_state(translation)
    rows, state = compare(translation, in_memory(weights), expected)
    assert list(state) == list(expected)
    assert {row.state for row in rows} == {"mapped", "left over"}
    scaled = {row.source: row for row in rows if row.why.startswith("times")}
    assert len(scaled) == (3 if name == "convnext" else 0)
    for row in rows:
        if row.state == "mapped" and row.source not in scaled:
            assert torch.equal(state[row.target], weights[row.source]), row
    for source, row in scaled.items():  # timm 0.5: (x - mean) / sqrt(unbiased variance)
        channels = len(weights[source])
        x = torch.randn(channels, dtype=torch.float64)
        original = (x - x.mean()) / x.var(unbiased=True).sqrt() * weights[source]
        ours = (x - x.mean()) / x.var(unbiased=False).sqrt() * state[row.target]
        torch.testing.assert_close(ours, original, rtol=1e-6, atol=1e-9)
        assert math.isclose(float(state[row.target][0] / weights[source][0]), math.sqrt(1 - 1 / channels), rel_tol=1e-5)


def test_sizes_of_swin():
    def size(*arguments: int) -> str:
        return str(get_reader("detic").read(detic(swin(*arguments), (1, 2, 3))).config["MODEL.SWIN.SIZE"])

    long = (2, 2, 18, 2)
    assert size(128, long, 4) == "B-22k" and size(128, long, 4, 12) == "B-22k-384" and size(192, long, 6) == "L-22k"
    with pytest.raises(Unrecognised, match=r"Swin .* is not known"):
        size(128, (2, 2, 17, 2), 4)


def test_resnet50_with_the_classifier_of_its_pretraining():
    translation = get_reader("detic").read(detic(timm_resnet(50, 11221), (512, 1024, 2048), 22047, counts=False))
    assert translation.config["MODEL.TIMM.NAME"] == "resnet50"
    assert [name for name in translation.left_over if ".base.fc." in name] != []
    assert translation.config["MODEL.CLASSIFIER.LOSS"] == "sigmoid" and translation.num_columns == 22047


def test_parts_that_only_training_needs_are_left_over():
    shapes = detic_r18() | {"text_encoder.positional_embedding": (77, 512), "pixel_mean": (3, 1, 1)}
    shapes |= {f"roi_heads.box_predictor.{k}.prop_score.0.weight": (16, 16) for k in range(3)}
    shapes |= {f"roi_heads.box_predictor.{k}.cls_score.cls_bias": (1,) for k in range(3)}
    translation = get_reader("detic").read(shapes)
    left = {name for name in translation.left_over if not name.endswith("num_batches_tracked")}
    assert {"text_encoder.positional_embedding", "pixel_mean", "roi_heads.box_predictor.2.prop_score.0.weight"} <= left
    assert (
        translation.names["roi_heads.box_predictor.1.cls_score.cls_bias"]
        == "roi_heads.box_predictor.1.cls_score.cls_bias"
    )
    assert translation.config["MODEL.CLASSIFIER.BIAS"] == 0.0 and "cls_score.cls_bias" in " ".join(
        expected_state(translation)
    )


def test_words_that_nobody_knows(tmp_path: Path):
    """22,047 classes: the file has their rows, but not their names; the model speaks words that are asked for."""
    source = tmp_path / "in.pth"
    torch.save(weights_of(detic_r18(40, counts=False)), source)
    result = import_weights("detic", source, tmp_path / "a.pth")
    assert [path.name for path in result.files] == ["a.pth", "a.yaml"] and "nobody says which words" in result.notes[0]
    save_embeddings(tmp_path / "clip.npz", torch.randn(2, 8), ["cat", "dog"])
    encoder = ["MODEL.CLASSIFIER.TEXT_ENCODER", f"table:{tmp_path / 'clip.npz'}", "MODEL.CLASSIFIER.PROMPTS", "name"]
    predictor = Predictor(tmp_path / "a.yaml", vocabulary="dog, cat", opts=encoder, device="cpu")
    assert predictor.vocabulary.names == ("dog", "cat")
    with pytest.raises(ValueError, match="names no dataset"):
        Predictor(tmp_path / "a.yaml", opts=encoder, device="cpu")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing {k}" for k in range(40)))
    result = import_weights("detic", source, tmp_path / "b.pth", vocabulary=str(names))
    predictor = Predictor(tmp_path / "b.yaml", device="cpu")
    assert predictor.vocabulary.names[39] == "thing 39"
    names.write_text("one\ntwo")
    with pytest.raises(ValueError, match=r"40 classes, but vocabulary .* has 2 words"):
        import_weights("detic", source, tmp_path / "c.pth", vocabulary=str(names))
    assert not (tmp_path / "c.pth").exists()


def test_image_counts_speak_against_lvis(tmp_path: Path):
    source = tmp_path / "in.pth"
    counts = LVIS.image_counts()
    torch.save(weights_of(detic_r18(), counts.flip(0)), source)
    with pytest.raises(ValueError, match=r"image counts .* are others"):
        import_weights("detic", source, tmp_path / "out.pth")
    assert list(tmp_path.iterdir()) == [source]
    result = import_weights("detic", source, tmp_path / "out.pth", vocabulary="lvis_v1")
    assert (tmp_path / "out_words.npz").exists() and result.notes == ()


@pytest.mark.parametrize(
    ("shapes", "vocabulary", "loss", "stages"),
    [
        (centernet2_r18(), "coco", "softmax", 3),
        (centernet2_r18(1203, counts=True), "lvis_v1", "federated", 3),
        (centernet2_r18(stages=0), "coco", "softmax", 1),
    ],
)
def test_centernet2(shapes: Shapes, vocabulary: str, loss: str, stages: int, tmp_path: Path):
    source, target = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save({"model": weights_of(shapes, LVIS.image_counts() if loss == "federated" else None)}, source)
    import_weights("centernet2", source, target)
    predictor = Predictor(target.with_suffix(".yaml"), device="cpu")
    assert predictor.vocabulary.names == Vocabulary.from_table(vocabulary).names
    assert len(predictor.model.roi_heads.box_predictor) == stages
    assert loss == predictor.cfg.MODEL.CLASSIFIER.LOSS and not predictor.cfg.MODEL.MASK_ON
    assert list(predictor.cfg.MODEL.ROI_HEADS.IN_FEATURES) == ["p3", "p4", "p5", "p6", "p7"]


def test_the_other_projects_files_are_refused():
    """Their names are alike, but not what their heads read and how they are tested."""
    with pytest.raises(Unrecognised, match=r"mvseg\.checkpoints detic"):
        get_reader("centernet2").read(detic_r18())
    with pytest.raises(Unrecognised, match=r"mvseg\.checkpoints centernet2"):
        get_reader("detic").read(centernet2_r18())


def test_a_closed_set_of_unknown_order_is_refused(tmp_path: Path):
    torch.save(weights_of(centernet2_r18(365)), tmp_path / "in.pth")
    with pytest.raises(ValueError, match="in which order: add --vocabulary"):
        import_weights("centernet2", tmp_path / "in.pth", tmp_path / "out.pth")


def renamed(weights: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): value for name, value in weights.items()}


@pytest.mark.parametrize("wrapper", ["module.", "model.", "module.model."])
def test_prefixes_of_wrappers_are_removed(wrapper: str, detic_weights: dict, detic_file: Path, tmp_path: Path):
    path = tmp_path / "in.pth"
    torch.save({"state_dict": {wrapper + name: value for name, value in detic_weights.items()}}, path)
    file = read_foreign_file(path)
    assert file.prefix == wrapper and list(file.weights) == list(detic_weights)
    assert read_foreign_file(detic_file).other == ("iteration", "optimizer")


def without(weights: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not any(part in name for part in parts)}


def with_shape(weights: dict[str, Tensor], name: str, *shape: int) -> dict[str, Tensor]:
    return {**weights, name: torch.zeros(shape)}


REFUSED = {
    "another backbone": (lambda w: renamed(w, "bottom_up.base.layer1", "bottom_up.base.level1"), "no known backbone"),
    "missing block": (lambda w: without(w, "base.layer3.1."), "ResNet with .*file is not complete"),
    "no pyramid": (lambda w: renamed(w, "backbone.fpn_lateral", "backbone.bifpn."), "pyramid has levels"),
    "no proposals": (lambda w: without(w, "agn_hm"), "no class-agnostic CenterNet proposals"),
    "one-stage": (
        lambda w: with_shape(w, "proposal_generator.centernet_head.cls_logits.weight", 80, 32, 3, 3),
        "one-stage CenterNet",
    ),
    "missing stage part": (lambda w: without(w, "box_head.1.fc2.bias"), "stage 1 of roi_heads.box_head differs"),
    "masks per class": (
        lambda w: with_shape(w, "roi_heads.mask_head.predictor.weight", 80, 16, 1, 1),
        "80 masks, known is 1",
    ),
    "boxes per class": (
        lambda w: {n: torch.zeros(320, 16) if n.endswith("bbox_pred.2.weight") else v for n, v in w.items()},
        "boxes that do not depend on the class",
    ),
    "convolutions in the head": (
        lambda w: with_shape(w, "roi_heads.box_head.0.conv1.weight", 16, 32, 3, 3),
        "region heads with convolutions",
    ),
    "no classifier": (lambda w: without(w, "cls_score"), "no classifier"),
    "Deformable DETR": (lambda w: with_shape(w, "detr.query_embed.weight", 300, 512), "Deformable DETR"),
    "wrong shape": (
        lambda w: with_shape(w, "backbone.fpn_output4.weight", 32, 32, 1, 1),
        r"1 have another shape[\s\S]*fpn_output4.weight \(32, 32, 1, 1\).* is \(32, 32, 3, 3\)",
    ),
    "missing entry": (
        lambda w: without(w, "top_block.p6.bias"),
        r"1 of the model are missing in the file: backbone.top_block.p6.bias[\s\S]*--partial",
    ),
    "renamed entry": (
        lambda w: renamed(w, "centernet_head.agn_hm.bias", "centernet_head.agn_hm.offset"),
        r"1 of the model are missing[\s\S]*agn_hm.bias[\s\S]*1 have no place in the model: .*agn_hm.offset",
    ),
    "unknown entry": (lambda w: with_shape(w, "neck.weight", 3), "1 are of no known kind: neck.weight"),
    "background column": (
        lambda w: {**w, "roi_heads.box_predictor.0.cls_score.zs_weight": torch.ones(8, 1204)},
        "no column of zeros for the background",
    ),
    "not a number": (
        lambda w: {**w, "backbone.fpn_output3.bias": torch.full((32,), torch.nan)},
        "fpn_output3.bias has values that are no numbers",
    ),
    "C4 without its last stage": (lambda w: without(renamed(w, "backbone.bottom_up", "backbone"), "base"), "no known"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, detic_weights: dict[str, Tensor], tmp_path: Path):
    change, message = REFUSED[case]
    path = tmp_path / "in.pth"
    torch.save({"model": change(detic_weights)}, path)
    with pytest.raises(ValueError, match=message):
        import_weights("detic", path, tmp_path / "out.pth")
    assert list(tmp_path.iterdir()) == [path]  # nothing is written


def test_other_order_of_swins_places(tmp_path: Path):
    shapes = ARCHITECTURES["swin"][0]
    weights = weights_of(shapes)
    name = "backbone.bottom_up.layers.0.blocks.1.attn.relative_position_index"
    weights[name] = weights[name].t().contiguous()
    translation = get_reader("detic").read(shapes)
    with pytest.raises(ValueError, match="numbered otherwise"):
        compare(translation, in_memory(weights), weights_of(shapes))


def test_partial(detic_weights: dict, tmp_path: Path):
    path = tmp_path / "in.pth"
    torch.save({**without(detic_weights, "top_block.p6.bias"), "neck.weight": torch.zeros(3)}, path)
    result = import_weights("detic", path, tmp_path / "out.pth", partial=True)
    states = {row.target or row.source: row.state for row in result.rows}
    assert states["backbone.top_block.p6.bias"] == "missing" and states["neck.weight"] == "left over"
    model = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert "backbone.top_block.p6.bias" not in model and "backbone.top_block.p6.weight" in model


def test_damaged_files(detic_file: Path, tmp_path: Path):
    content = detic_file.read_bytes()
    bad = tmp_path / "bad.pth"
    for part in (content[:-1000], content[:100], b"", b"not a weight file"):
        bad.write_bytes(part)
        with pytest.raises(ValueError, match="cannot be read"):
            read_foreign_file(bad)
    for value, message in (
        ([1, 2], "holds a list"),
        ({"model": {}}, "there are none"),
        ({"model": {"a": "b"}}, "a is"),
    ):
        torch.save(value, bad)
        with pytest.raises(ValueError, match=message):
            read_foreign_file(bad)
    with pytest.raises(FileNotFoundError):
        read_foreign_file(tmp_path / "nowhere.pth")


class Bomb:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("bomb"),)


def test_pickles_need_a_flag_and_never_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    weights = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.float64(2)}
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps({"model": weights, "__author__": "somebody"}))
    with pytest.raises(ValueError, match="--allow-pickle"):
        read_foreign_file(plain)
    file = read_foreign_file(plain, allow_pickle=True)
    assert torch.equal(file.weights["a.weight"], torch.arange(6.0).reshape(2, 3)) and file.other == ("__author__",)
    torch.save({"model": weights}, tmp_path / "arrays.pth")
    with pytest.raises(ValueError, match=r"numpy arrays: .*--allow-pickle"):
        read_foreign_file(tmp_path / "arrays.pth")
    assert torch.equal(read_foreign_file(tmp_path / "arrays.pth", True).weights["a.weight"], file.weights["a.weight"])
    plain.write_bytes(pickle.dumps({"model": weights, "extra": Bomb()}))
    torch.save({"model": weights, "extra": Bomb()}, tmp_path / "bomb.pth")
    for path in (plain, tmp_path / "bomb.pth"):
        with pytest.raises(ValueError, match="cannot be read"):
            read_foreign_file(path, allow_pickle=True)
    assert not Path("bomb").exists()


def test_readers_are_a_registry():
    assert {"detic", "centernet2"} <= set(READERS)
    with pytest.raises(ValueError, match="detic"):
        get_reader("detik")
    twice = Reader("x", "", lambda shapes: [Part("all", rules=(Rule(r"[ab]\.weight", "c.weight"),))])
    with pytest.raises(Unrecognised, match=r"a\.weight and b\.weight, would both become c\.weight"):
        twice.read({"a.weight": (1,), "b.weight": (1,)})

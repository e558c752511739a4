"""The predictor: any words, images of any size, batches, suppression by brute force, and mistakes of its user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from PIL import Image
from tiny_run import TRAINED, embeddings_of, picture, write_run
from torchvision.ops import box_iou

from mvseg.config import load_config
from mvseg.data.catalog import get_vocabulary, register_dataset, unregister_card
from mvseg.inference import Predictor
from mvseg.inference.embedding import embed
from mvseg.inference.words import parse_words
from mvseg.modeling.words import WordEmbedder
from mvseg.vocabulary import Vocabulary, build_text_encoder
from mvseg.vocabulary.embedding_files import Provenance, save_embeddings
from mvseg.vocabulary.encoders import CachedTextEncoder

SIZES = [(64, 80), (100, 64), (64, 80), (30, 200), (64, 90), (7, 5), (100, 64), (300, 1), (1, 1)]


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor.from_run(run, score_threshold=0.05)


def equal(a, b, places: float = 1e-4) -> None:
    assert len(a) == len(b) and a.image_size == b.image_size
    torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=places)
    torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, rtol=0, atol=100 * places)
    assert a.pred_classes.tolist() == b.pred_classes.tolist()
    assert (a.pred_masks != b.pred_masks).float().mean() < 1e-3


def test_it_says_what_detectron2s_own_way_says(run: Path, predictor: Predictor):
    cfg = load_config(run / "config.yaml", ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.05"])
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(str(run / "model_final.pth"))
    model.set_vocabulary(get_vocabulary("tiny_run_train"))
    image = picture(1, 128, 160)
    small = np.asarray(Image.fromarray(image[:, :, ::-1].copy()).resize((80, 64), Image.Resampling.BILINEAR))
    record = {"image": torch.from_numpy(small.transpose(2, 0, 1).copy()), "height": 128, "width": 160}
    with torch.no_grad():
        expected = model([record])[0]["instances"]
    found = predictor(image)[0]
    equal(found, expected, 1e-6)
    assert predictor.names == ("cat", "dog", "red car") and len(found) == 40
    assert found.pred_masks.shape == (40, 128, 160) and found.pred_masks.any()


def test_a_batch_of_different_sizes_equals_one_by_one(run: Path, predictor: Predictor):
    images = [picture(seed, *size) for seed, size in enumerate(SIZES)]
    batched = Predictor.from_run(run, score_threshold=0.05, batch_size=4)
    seen = []
    batched.model.register_forward_pre_hook(lambda model, args: seen.append(len(args[0])))
    together, alone = batched(images), [predictor(image)[0] for image in images]
    for image, a, b in zip(images, together, alone, strict=True):
        equal(a, b)
        assert a.image_size == image.shape[:2] and len(a) > 0
    assert max(seen) > 1 and sum(seen) == len(images)
    streamed = list(batched.stream(iter(images)))
    assert [answer.source is image for answer, image in zip(streamed, images, strict=True)] == [True] * len(images)
    for answer, b in zip(streamed, alone, strict=True):
        equal(answer.instances, b)


def test_images_of_every_kind_are_the_same_image(tmp_path: Path, predictor: Predictor):
    pixels = picture(4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels]
    first, *others = predictor(kinds)
    for other in others:
        equal(first, other, 0)
    equal(predictor(grey)[0], predictor(np.repeat(grey[:, :, None], 3, axis=2))[0], 0)
    with pytest.raises(ValueError, match=r"uint8 RGB of shape \(H, W, 3\), not float64 of shape \(5, 6, 3\)"):
        predictor(np.zeros((5, 6, 3)))
    with pytest.raises(ValueError, match="has no pixels"):
        predictor(np.zeros((0, 6, 3), dtype=np.uint8))


def suppressed(found, threshold: float, agnostic: bool) -> list[int]:
    """Rows that greedy suppression keeps, one box after the other."""
    overlap, kept = box_iou(found.pred_boxes.tensor, found.pred_boxes.tensor), []
    for row in found.scores.argsort(descending=True, stable=True).tolist():
        rivals = [k for k in kept if agnostic or found.pred_classes[k] == found.pred_classes[row]]
        if all(overlap[row, k] <= threshold for k in rivals):
            kept.append(row)
    return kept


@pytest.mark.parametrize("threshold", [0.1, 0.5])
@pytest.mark.parametrize("nms", ["class", "agnostic"])
def test_suppression_is_that_of_brute_force(run: Path, nms: str, threshold: float):
    options = {"score_threshold": 0.3, "max_detections": 1000}
    everything = Predictor.from_run(run, nms="none", **options)(picture(1))[0]
    found = Predictor.from_run(run, nms=nms, nms_threshold=threshold, **options)(picture(1))[0]
    rows = suppressed(everything, threshold, nms == "agnostic")
    assert found.scores.tolist() == everything.scores[rows].tolist() and len(rows) < len(everything)
    assert found.pred_classes.tolist() == everything.pred_classes[rows].tolist()
    assert (found.scores > 0.3).all()


def test_thresholds_of_single_words_and_the_number_of_detections(run: Path):
    many = {"nms": "none", "max_detections": 1000}
    everything = Predictor.from_run(run, score_threshold=0.2, **many)(picture(1))[0]
    own = {"dog": 0.9, "red car": 0.2}
    found = Predictor.from_run(run, score_threshold=0.6, word_thresholds=own, **many)(picture(1))[0]
    wanted = torch.tensor([0.6, 0.9, 0.2])[everything.pred_classes]
    assert found.scores.tolist() == everything.scores[everything.scores > wanted].tolist()
    assert set(found.pred_classes.tolist()) == {0, 1, 2}
    few = Predictor.from_run(run, score_threshold=0.6, word_thresholds=own, nms="none", max_detections=7)(picture(1))[0]
    assert few.scores.tolist() == found.scores[:7].tolist()
    with pytest.raises(ValueError, match="'zebra', which is not among the words asked for; there are: cat, dog"):
        Predictor.from_run(run, word_thresholds={"zebra": 0.1})


def test_words_that_are_in_no_training_set(predictor: Predictor, run: Path):
    words = ["猫", "cat", "пёс", "🦓"]
    predictor.set_vocabulary(words)
    free = predictor(picture(1))[0]
    given = Vocabulary(name="x", names=tuple(words), embeddings=torch.from_numpy(embeddings_of(words)))
    predictor.set_vocabulary(given)
    equal(free, predictor(picture(1))[0], 1e-6)
    assert set(free.pred_classes.tolist()) > {0} and predictor.names == tuple(words)
    predictor.set_vocabulary(None)
    assert predictor.names == tuple(TRAINED)


def test_embeddings_of_another_encoder_or_none_are_made_anew(predictor: Predictor, caplog: pytest.LogCaptureFixture):
    predictor.set_vocabulary(Vocabulary(name="clip", names=("tram",), embeddings=torch.ones(1, 512)))
    expected = predictor.vocabulary.embeddings
    np.testing.assert_allclose(expected, embeddings_of(["tram"]) / np.linalg.norm(embeddings_of(["tram"])), atol=1e-6)
    assert "'clip' are another encoder's" in caplog.text
    card = {"name": "tiny_no_file", "format": "coco", "image_root": ".", "annotations": "none.json"}
    register_dataset(**card, vocabulary=["tram"], embeddings="absent.npy")
    predictor.set_vocabulary("tiny_no_file")
    torch.testing.assert_close(predictor.vocabulary.embeddings, expected)
    assert "absent.npy" in caplog.text
    unregister_card("tiny_no_file")
    predictor.set_vocabulary(None)


def test_several_prompts_are_averaged(predictor: Predictor):
    predictor.set_vocabulary("sofa=a couch|a settee, dog")
    couch, settee = (row / np.linalg.norm(row) for row in embeddings_of(["a couch", "a settee"]).astype(float))
    mean = (couch + settee) / np.linalg.norm(couch + settee)
    np.testing.assert_allclose(predictor.vocabulary.embeddings[0].numpy(), mean, atol=1e-6)
    dog = embeddings_of(["dog"])[0]
    np.testing.assert_allclose(predictor.vocabulary.embeddings[1], dog / np.linalg.norm(dog), atol=1e-6)
    predictor.set_vocabulary(None)


def test_without_an_encoder_known_words_work_and_others_say_how_to_get_one(tmp_path: Path, run: Path):
    opts = ["MODEL.CLASSIFIER.TEXT_ENCODER", "", "MODEL.CLASSIFIER.PROMPTS", "single"]
    plain = Predictor(run / "config.yaml", run / "model_final.pth", "Dog, red_car", opts=opts)
    np.testing.assert_allclose(plain.vocabulary.embeddings, embeddings_of(["dog", "red car"]), atol=1e-6)
    with pytest.raises(ValueError, match=r"for 2 of the 3 words \(zebra, tram\).*TEXT_ENCODER minilm.*pip install"):
        plain.set_vocabulary("cat, zebra, tram")
    wrong = Vocabulary(name="clip", names=("cat",), embeddings=torch.ones(1, 512))
    with pytest.raises(ValueError, match="'clip' are 512 wide, but this model's are 8"):
        plain.set_vocabulary(wrong)
    with pytest.raises(ValueError, match="for prompts of your own there are no text embeddings"):
        plain.set_vocabulary("cat=a cat|kitty")
    assert plain.names == ("Dog", "red_car")  # a mistake changes nothing


def test_the_embedding_file_of_the_training_may_name_the_encoder(run: Path, tmp_path: Path):
    table = f"table:{run / 'table.npz'}"
    made = Provenance(table, build_text_encoder(table).fingerprint, prompts="name")
    for name, provenance in (("right", made), ("other", replace(made, fingerprint="0" * 32))):
        save_embeddings(tmp_path / f"{name}.npz", torch.from_numpy(embeddings_of(TRAINED)), TRAINED, provenance)
        card = {"name": f"tiny_run_{name}", "format": "coco", "image_root": ".", "annotations": "none.json"}
        register_dataset(**card, vocabulary=TRAINED, embeddings=str(tmp_path / f"{name}.npz"))
    opts = ["MODEL.CLASSIFIER.TEXT_ENCODER", "", "MODEL.CLASSIFIER.PROMPTS", "single", "DATASETS.TRAIN"]
    found = Predictor(run / "config.yaml", run / "model_final.pth", "zebra, cat", opts=[*opts, "('tiny_run_right',)"])
    expected = torch.nn.functional.normalize(torch.from_numpy(embeddings_of(["zebra", "cat"])), dim=1)
    torch.testing.assert_close(found.vocabulary.embeddings, expected)
    other = Predictor(run / "config.yaml", run / "model_final.pth", "cat", opts=[*opts, "('tiny_run_other',)"])
    with pytest.raises(ValueError, match=r"made with another table:.* than the one installed here"):
        other.set_vocabulary("zebra")
    for name in ("right", "other"):
        unregister_card(f"tiny_run_{name}")


def test_mistakes_with_words(predictor: Predictor, run: Path):
    with pytest.raises(ValueError, match="word 2 of 3 is empty"):
        predictor.set_vocabulary("cat,,dog")
    with pytest.raises(ValueError, match="unicorn"):  # the table that is the encoder here does not have it
        predictor.set_vocabulary("unicorn, cat")
    with pytest.raises(ValueError, match="nms 'soft'; "):
        Predictor.from_run(run, nms="soft")
    with pytest.raises(ValueError, match="score threshold must be from 0 to 1, not 50"):
        Predictor.from_run(run, score_threshold=50)
    with pytest.raises(ValueError, match="batch_size"):
        Predictor.from_run(run, batch_size=0)


def test_a_closed_set_model_knows_only_its_words(tmp_path: Path, run: Path):
    folder = write_run(tmp_path / "linear", classifier="linear", dataset="tiny_run_linear")
    closed = Predictor.from_run(folder, score_threshold=0.01, vocabulary="Red Car, cat")
    whole = Predictor.from_run(folder, score_threshold=0.01, nms="none", max_detections=1000)
    assert set(closed(picture(2))[0].pred_classes.tolist()) <= {0, 1} and whole.names == tuple(TRAINED)
    best = whole(picture(2))[0]
    best = best[best.pred_classes != 1]  # no dogs were asked for
    assert closed(picture(2))[0].scores[0] == best.scores[0]
    with pytest.raises(ValueError, match=r"closed-set model was not trained with 1 of the 2 words .*: zebra"):
        closed.set_vocabulary("cat, zebra")
    with pytest.raises(ValueError, match=r"closed-set model takes no prompts \(cat\)"):
        closed.set_vocabulary("cat=kitty")
    unregister_card("tiny_run_linear")


def test_a_run_is_found_by_its_folder(tmp_path: Path, run: Path):
    assert Path(Predictor.from_run(str(run)).cfg.MODEL.WEIGHTS) == run / "model_final.pth"
    with pytest.raises(FileNotFoundError, match=r"no config\.yaml"):
        Predictor.from_run(tmp_path)
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    (tmp_path / "model_0000007.pth").write_bytes((run / "model_final.pth").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"no model_final.pth or model_best.pth; .* model_0000007.pth"):
        Predictor.from_run(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth")
    assert Predictor.from_run(tmp_path).cfg.MODEL.WEIGHTS.endswith("model_0000007.pth")
    (tmp_path / "model_best.pth").write_bytes((run / "model_final.pth").read_bytes())
    assert Predictor.from_run(tmp_path).cfg.MODEL.WEIGHTS.endswith("model_best.pth")
    with pytest.raises(FileNotFoundError, match="final_ema"):
        Predictor.from_run(tmp_path, weights="final_ema")


def test_a_run_that_moved_without_its_training_data(run: Path, predictor: Predictor, caplog: pytest.LogCaptureFixture):
    away = ["DATASETS.CARDS", "['/nowhere/cards']", "DATASETS.TRAIN", "('gone',)", "MODEL.CLASSIFIER.LOSS", "federated"]
    files = (run / "config.yaml", run / "model_final.pth")
    moved = Predictor(*files, "猫, cat", score_threshold=0.05, opts=away)
    assert "not on this machine" in caplog.text
    predictor.set_vocabulary("猫, cat")
    equal(moved(picture(3))[0], predictor(picture(3))[0], 1e-5)
    predictor.set_vocabulary(None)
    moved.set_vocabulary("zebra")
    assert moved.names == ("zebra",)
    sparing = [*away[:-1], "eql"]  # as "federated" it needs image counts, and at test time it is the sigmoid
    moved = Predictor(*files, "猫, cat", score_threshold=0.05, opts=sparing)
    predictor.set_vocabulary("猫, cat")
    equal(moved(picture(3))[0], predictor(picture(3))[0], 1e-5)
    predictor.set_vocabulary(None)
    with pytest.raises(FileNotFoundError, match="/nowhere/cards"):
        Predictor(*files, opts=away)  # nobody says which words
    with pytest.raises(FileNotFoundError, match="/nowhere/cards"):
        Predictor(*files, "cat", opts=[*away, "MODEL.CLASSIFIER.TEXT_ENCODER", ""])


def test_mixed_precision_finds_nearly_the_same(run: Path, predictor: Predictor):
    exact = predictor(picture(1))[0]
    rough = Predictor.from_run(run, score_threshold=0.05, amp=True)(picture(1))[0]
    assert rough.scores.dtype == torch.float32 and 0 < (rough.scores[0] - exact.scores[0]).abs() < 0.05


def test_unreadable_images_do_not_stop_a_stream(tmp_path: Path, predictor: Predictor):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    sources = [picture(1), tmp_path / "broken.jpg", tmp_path / "absent.jpg", picture(2)]
    answers = list(predictor.stream(sources))
    assert [answer.instances is None for answer in answers] == [False, True, True, False]
    assert "broken.jpg: no image" in answers[1].error and "does not exist" in answers[2].error


def test_twenty_thousand_words(run: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch):
    words = tuple(f"word {number}" for number in range(20_000))
    random = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(1))
    predictor.set_vocabulary(Vocabulary(name="many", names=words, embeddings=random), score_threshold=0.5)
    whole = predictor([picture(1), picture(2)])
    monkeypatch.setattr("mvseg.modeling.roi_heads.detecting.SCORES_AT_ONCE", 1)  # image by image
    predictor.batch_size = 2
    try:
        for a, b in zip(whole, predictor([picture(1), picture(2)]), strict=True):
            equal(a, b)
            assert len(a) == 40 and len(set(a.pred_classes.tolist())) > 1
    finally:
        predictor.batch_size = 1
        predictor.set_vocabulary(None, score_threshold=0.05)


def test_words_that_the_encoder_cannot_read_are_named(caplog: pytest.LogCaptureFixture):
    class Reader:
        fingerprint = "x"

        def encode(self, texts):
            return torch.ones(len(texts), 4)

        def unread(self, texts):
            return [text for text in texts if not text.isascii()]

    embedder = WordEmbedder("minilm", "name")
    embedder.__dict__["encoder"] = CachedTextEncoder(Reader(), Path("nowhere"))  # asked through the cache
    embedder.encoder.encode = embedder.encoder.encoder.encode
    embed(parse_words("cat, 🦊, bus=a 猫|a bus"), None, embedder, 4)
    assert "minilm cannot read 🦊, a 猫: it" in caplog.text

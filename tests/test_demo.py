"""demo.py as its users start it: folders, broken files, videos, words of their own, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "inference")]

from tiny_run import picture, write_run  # noqa: E402

import demo  # noqa: E402
from mvseg.data.catalog import unregister_card  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield str(write_run(tmp_path_factory.mktemp("demo") / "run", dataset="tiny_demo_train"))
    unregister_card("tiny_demo_train")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "in").mkdir()
    for number, (name, size) in enumerate({"2.png": (64, 80), "10.jpg": (90, 64), "in/2.png": (64, 80)}.items()):
        Image.fromarray(picture(number, *size)).save(folder / name)
    cv2.imwrite(str(folder / "deep.tif"), picture(5)[..., 0].astype(np.uint16) * 256)
    return folder


def changed(path: Path, before: np.ndarray) -> bool:
    after = np.asarray(Image.open(path).convert("RGB"))
    assert after.shape == before.shape
    return bool((np.abs(after.astype(int) - before) > 40).mean() > 0.01)


def test_the_command_on_a_folder_with_a_broken_file(run: str, photos: Path, tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    command = [
        sys.executable,
        str(ROOT / "demo.py"),
        "--run",
        run,
        "--input",
        str(photos),
        str(tmp_path / "broken.jpg"),
    ]
    command += ["--recursive", "--vocabulary", "dog, 猫, sofa=a couch|a settee", "--confidence-threshold", "0.3"]
    command += ["--output", str(tmp_path / "out"), "--json", str(tmp_path / "all.json"), "--batch-size", "2"]
    command += ["--contact-sheet", str(tmp_path / "sheet.png"), "--max-detections", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == demo.SOME_UNREADABLE, done.stderr
    assert "4 images, 20 detections, 1 errors" in done.stdout and "broken.jpg" in done.stdout
    assert "5/5 images" in done.stderr
    data = COCO(str(tmp_path / "all.json"))
    assert [Path(i["file_name"]).name for i in data.loadImgs(data.getImgIds())] == [
        "2.png",
        "10.jpg",
        "deep.tif",
        "2.png",
    ]
    assert [c["name"] for c in data.loadCats(data.getCatIds())] == ["dog", "猫", "sofa"]
    for annotation in data.loadAnns(data.getAnnIds()):
        assert annotation["score"] > 0.3 and data.annToMask(annotation).shape in {(64, 80), (90, 64)}
    drawn = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert drawn == ["10.jpg", "2.png", "deep.tif.jpg", "in/2.png"]
    for name in ("2.png", "in/2.png"):
        assert changed(tmp_path / "out" / name, np.asarray(Image.open(photos / name)))
    assert np.asarray(Image.open(tmp_path / "sheet.png")).shape[0] == 220 + 16


def write_video(path: Path, count: int = 6) -> list[np.ndarray]:
    frames = [picture(number, 48, 64) for number in range(count)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (64, 48))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return frames


def test_a_video_keeps_its_rate(run: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    frames = write_video(tmp_path / "a.avi")
    places = ["--output", str(tmp_path / "b.mp4"), "--json", str(tmp_path / "b.json")]
    places += ["--contact-sheet", str(tmp_path / "sheet.jpg"), "--batch-size", "4", "--max-detections", "1"]
    assert demo.main(["--run", run, "--video-input", str(tmp_path / "a.avi"), *places]) == 0
    assert "6 images" in capsys.readouterr().out
    capture = cv2.VideoCapture(str(tmp_path / "b.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5) and capture.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    ok, frame = capture.read()
    assert ok and frame.shape == (48, 64, 3)
    assert (
        np.abs(frame[..., ::-1].astype(int) - frames[0]).mean() < 40 < np.abs(frames[0].astype(int) - frames[3]).mean()
    )
    tree = json.loads((tmp_path / "b.json").read_text())
    assert [image["frame"] for image in tree["images"]] == list(range(6))
    assert Image.open(tmp_path / "sheet.jpg").height > 220
    assert demo.main(["--run", run, "--video-input", str(tmp_path / "a.avi"), "--max-frames", "2", *places[:2]]) == 0
    assert cv2.VideoCapture(str(tmp_path / "b.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2


def test_a_video_that_ends_early_shows_in_the_exit_code(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    write_video(tmp_path / "a.avi")
    original = demo.VideoReader

    def announces_more(source: str):
        reader = original(source)
        reader.count = 9
        return reader

    monkeypatch.setattr(demo, "VideoReader", announces_more)
    code = demo.main(["--run", run, "--video-input", str(tmp_path / "a.avi"), "--json", str(tmp_path / "a.json")])
    assert code == demo.SOME_UNREADABLE and "only 6 of 9 frames could be read" in capsys.readouterr().out


def test_flags_of_detectron2_and_detic(run: str, photos: Path, tmp_path: Path):
    image = str(photos / "2.png")
    target = tmp_path / "one.png"
    command = [
        "--config-file",
        f"{run}/config.yaml",
        "--input",
        image,
        "--output",
        str(target),
        "--vocabulary",
        "custom",
    ]
    command += ["--custom_vocabulary", "zebra,tram", "--confidence-threshold", "0.2", "--cpu"]
    command += [
        "--max-detections",
        "4",
        "--json",
        str(tmp_path / "a.json"),
        "--nms",
        "agnostic",
        "--nms-threshold",
        "0.3",
    ]
    assert demo.main([*command, "--opts", "MODEL.WEIGHTS", f"{run}/model_final.pth"]) == 0
    assert changed(target, np.asarray(Image.open(image)))
    tree = json.loads((tmp_path / "a.json").read_text())
    assert [c["name"] for c in tree["categories"]] == ["zebra", "tram"]
    assert (tree["info"]["nms"], tree["info"]["nms_threshold"]) == ("agnostic", 0.3)
    high = [*command, "--word-thresholds", "tram=1", "--weights", f"{run}/model_final.pth"]
    assert demo.main(high) == 0
    tree = json.loads((tmp_path / "a.json").read_text())
    assert {a["category_id"] for a in tree["annotations"]} == {1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "absent/*.png", "--json", "x"], "no file fits the pattern absent"),
        (["--video-input", "absent.mp4", "--json", "x"], "video absent.mp4 does not exist"),
        (["--webcam", "97"], "camera 97 gives no picture"),
        (["--input", "PHOTOS/2.png", "--json", "x", "--vocabulary", "cat,,dog"], "word 2 of 3 is empty"),
        (["--input", "PHOTOS/2.png", "--json", "x", "--vocabulary", "Cat, cat"], "more than once: Cat, cat"),
        (["--input", "PHOTOS", "--output", "x.png"], "--output x.png is a file, but there are 3 images"),
        (["--input", "PHOTOS", "--output", "PHOTOS"], "would overwrite the image"),
        (["--input", "PHOTOS", "--json", "x", "--weights", "best"], "weight files there: model_final.pth"),
        (["--input", "PHOTOS", "--json", "x", "--opts", "MODEL.WEIGHT", "y"], "nearest: MODEL.WEIGHTS"),
    ],
)
def test_mistakes_are_one_clear_line(
    run: str, photos: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture
):
    assert demo.main(["--run", run, *(part.replace("PHOTOS", str(photos)) for part in arguments)]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("demo.py: ") and message in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "a.png", "--json", "x"], "either --run or --config-file"),
        (["--run", "r", "--json", "x"], "one of --input, --video-input and --webcam"),
        (["--run", "r", "--input", "a.png", "--opts", "A", "1", "--json", "x"], "before --opts: where shall"),
        (["--run", "r", "--input", "a.png"], "where shall the detections go"),
        (["--run", "r", "--input", "a.png", "--json", "x", "--vocabulary", "custom"], "go together"),
    ],
)
def test_wrong_command_lines(arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stop:
        demo.parse(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert demo.parse(["--run", "r", "--webcam"]).show and demo.parse(["--run", "r", "--webcam"]).webcam == 0


def test_the_demo_stays_thin():
    assert len((ROOT / "demo.py").read_text().splitlines()) < 160

"""The report: self-contained HTML with the run's own numbers, also of interrupted runs and with damaged files."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvseg.report import record_session, write_report
from mvseg.report.__main__ import main
from mvseg.report.charts import BOTTOM, LEFT, PALETTE, RIGHT, TOP, line_chart, number, ticks
from mvseg.report.write import changed_settings

VOID = {"meta", "img", "br", "line", "rect", "circle", "polyline", "image", "link"}


class Page(HTMLParser):
    """Collects attributes and the text of a page, and checks that every tag is closed by its own end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if tag not in VOID or (self.open and self.open[-1] == tag):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_the_file_needs_nothing_else(run_folder: Path):
    path = write_report(run_folder)
    assert path == run_folder / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    links = [value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "srcset", "action")]
    assert links and all(link.startswith(("data:image/", "#")) for link in links)
    assert not re.search(r"https?://|url\(|@import|<script|<iframe|<link", text)
    anchors = {value for _, name, value in page.attributes if name == "id"}
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
    assert list(run_folder.glob(".report*")) == []  # nothing half-written is left


def test_results_and_classes_are_those_of_the_run(run_folder: Path):
    page = page_of(run_folder)
    assert "31.3" in page.text and "Boxes, AP" in page.text and "after iteration 60" in page.text
    assert "52.0" in page.text and "boxes AP50 52.0" in page.text
    assert "1 of 3 words new" in page.text and "3 (1 new)" in page.text  # "tram" is in no training set
    bars = re.findall(r'title="([^"]+)">[^<]*</span><span class="track"><i style="width:([\d.]+)%;background:(#\w+)',
                      (run_folder / "report.html").read_text())  # fmt: skip
    assert bars == [("cat", "60.0", PALETTE[0]), ("tram", "2.5", PALETTE[1]), ("car", "0.0", PALETTE[0])]
    assert "base: mean 60.0 (1 classes)" in page.text and "novel: mean 2.5 (1 classes)" in page.text


def test_text_from_outside_is_escaped(run_folder: Path):
    text = write_report(run_folder).read_text()
    assert "R&amp;D &lt;lab&gt;" in text and "<lab>" not in text and "run &lt;1&gt;" in text


def test_the_newest_pictures_are_shown(run_folder: Path):
    old, new = (run_folder / "pictures" / f"exam_{i}.jpg" for i in ("0000029", "0000059"))
    Image.new("RGB", (8, 8), (255, 0, 0)).save(old)
    Image.new("RGB", (8, 8), (0, 255, 0)).save(new)
    page = page_of(run_folder)
    images = {value for tag, name, value in page.attributes if tag == "img" and name == "src"}
    alts = [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]
    assert alts == ["Predictions: exam", "Training data as the model sees it: pets"]
    import base64
    import io

    colors = [np.asarray(Image.open(io.BytesIO(base64.b64decode(u.partition(",")[2]))))[4, 4] for u in images]
    assert any(c[1] > 200 and c[0] < 50 for c in colors) and not any(c[0] > 200 and c[1] < 50 for c in colors)


def test_pictures_stay_within_the_budget(run_folder: Path, monkeypatch: pytest.MonkeyPatch):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(run_folder / "pictures" / "exam_0000059.png")
    monkeypatch.setattr("mvseg.report.write.PICTURE_BYTES", 400_000)
    size = write_report(run_folder).stat().st_size
    assert 100_000 < size < 450_000
    monkeypatch.setattr("mvseg.report.write.PICTURE_BYTES", 4_000_000)
    assert write_report(run_folder).stat().st_size > 800_000


def test_an_interrupted_run_says_so(run_folder: Path):
    (run_folder / "model_final.pth").unlink()
    (run_folder / "results.json").unlink()
    with (run_folder / "metrics.json").open("w") as file:
        file.write('{"iteration": 19, "total_loss": 3.0, "time": 1}\n{"iteration": 39, "total_lo')
    page = page_of(run_folder)
    assert "not finished: its last trace is iteration 20 of 60" in page.text
    assert "No evaluation has been written yet" in page.text
    assert "1 lines of metrics.json" in page.text and "results.json is not there" in page.text
    assert "run.json is missing" in page.text


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "results.json"])
@pytest.mark.parametrize("content", [None, b"", b"\xff{[", b"[1]", b'{"results": 3}'])
def test_every_file_may_be_missing_or_damaged(run_folder: Path, name: str, content: bytes | None):
    if content is None:
        (run_folder / name).unlink()
    else:
        (run_folder / name).write_bytes(content)
    (run_folder / "pictures" / "exam_0000059.jpg").write_bytes(b"no picture")
    text = page_of(run_folder).text
    assert ("Not in this report" in text and "picture exam_0000059.jpg" in text) or name == "config.yaml"


def test_datasets_that_are_gone_do_not_stop_the_report(run_folder: Path):
    config = (run_folder / "config.yaml").read_text()
    (run_folder / "config.yaml").write_text(config.replace("street", "forgotten").replace("CARDS: []", "CARDS: [gone]"))
    text = page_of(run_folder).text
    assert "words of forgotten: no dataset 'forgotten'" in text and "cards of gone" in text


def test_a_resumed_run_counts_repeated_iterations_once(run_folder: Path):
    with (run_folder / "metrics.json").open("a") as file:
        file.write(json.dumps({"iteration": 39, "total_loss": 77.0, "time": 0.5}) + "\n")
    text = write_report(run_folder).read_text()
    assert "total loss: 77 at iteration 39" in text and "total loss: 2.1 at iteration 39" not in text
    assert "30 s of training steps" in text  # 60 iterations of half a second


def test_sessions_are_recorded_and_shown(run_folder: Path):
    record_session(run_folder, ["python", "train_net.py", "--config-file", "x & y.yaml"])
    record_session(run_folder, ["python", "train_net.py", "--resume"])
    page = page_of(run_folder)
    assert "python train_net.py --config-file x & y.yaml" in page.text and "--resume" in page.text
    assert "2 starts" in page.text and "torch 2" in page.text
    (run_folder / "run.json").write_text("{")
    record_session(run_folder, ["again"])
    assert len(json.loads((run_folder / "run.json").read_text())["sessions"]) == 1


def test_many_classes_are_cut_to_the_best_and_the_worst(run_folder: Path):
    values = {f"AP-word {i:02d}": float(i) for i in range(50)}
    results = {"exam": {"bbox": {"AP": 1.0, **values}}}
    (run_folder / "results.json").write_text(json.dumps({"iteration": 59, "results": results}))
    text = page_of(run_folder).text
    assert "word 35" in text and "word 34" not in text and "word 14" in text and "word 15" not in text
    assert "worst 15 of 50" in text


def test_settings_that_differ_from_the_defaults():
    config = {"SOLVER": {"BASE_LR": 0.5, "MAX_ITER": 40000}, "OUTPUT_DIR": "./output", "DATASETS": {"TEST": ["a"]}}
    assert changed_settings(config) == {"SOLVER.BASE_LR": "0.5", "DATASETS.TEST": "['a']"}


def test_command_line(run_folder: Path, tmp_path: Path, capsys):
    assert main([str(run_folder), "--output", str(tmp_path / "x.html")]) == 0 and (tmp_path / "x.html").is_file()
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2 and main([str(tmp_path / "none")]) == 2
    assert "no run" in capsys.readouterr().err


def test_curves_lie_where_their_values_are():
    svg = line_chart({"a": [(0, 0.0), (100, 10.0)], "b": [(50, 5.0)], "empty": []}, "T", width=400, height=200)
    points = re.search(r'points="([^"]+)"', svg).group(1).split()
    top = TOP + (200 - TOP - BOTTOM) * (0.4 / 10.4)  # the axis ends 4 % above the largest value
    assert points[0] == f"{LEFT:.1f},{200 - BOTTOM:.1f}" and points[1] == f"{400 - RIGHT:.1f},{top:.1f}"
    x, y = map(float, re.search(rf'cx="([\d.]+)" cy="([\d.]+)" r="3" fill="{PALETTE[1]}"', svg).groups())
    assert abs(x - (LEFT + 400 - RIGHT) / 2) < 0.1 and abs(y - (200 - BOTTOM + top) / 2) < 0.1
    assert "empty" not in svg and line_chart({"x": []}, "T") == ""


@pytest.mark.parametrize("values", [[(5, 1.0)], [(0, -3.0), (9, -3.0)], [(0, 0.0), (1, 0.0)], [(0, 1e-9), (7, 1e9)]])
def test_flat_and_single_values_are_drawn(values):
    svg = line_chart({"a": values}, "T")
    assert "nan" not in svg and "inf" not in svg and svg.count("<circle") == len(values)


def test_ticks_and_numbers():
    assert ticks(0, 10.4) == [0, 5, 10] and ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.37, 0.52) == pytest.approx([0.4, 0.45, 0.5])
    assert [number(v) for v in (0, 3.14159, 123456, 0.00012)] == ["0", "3.142", "1.2e5", "1.2e-4"]

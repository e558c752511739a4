"""Images in tar files: index, records, random access, and everything that can be wrong with them."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from shard_files import jpeg, webdataset, write_tar

from mvseg.config import get_cfg
from mvseg.data import get_records, get_vocabulary
from mvseg.data.__main__ import main
from mvseg.data.catalog import dataset_report, unregister_card
from mvseg.data.columns import ColumnRecords
from mvseg.data.index_file import INDEX_NAME, check_files, open_index
from mvseg.data.indexing import make_index
from mvseg.data.inspection import inspect_card
from mvseg.data.loader import build_train_loader
from mvseg.data.reading import ImageReadError, read_image
from mvseg.data.tar_files import OPEN_FILES, TarMemberError, close_files, member_url, parse_member, read_member


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = webdataset(tmp_path / "shards")
    make_index(folder)
    yield folder
    close_files()


def fields(folder: Path, **more) -> dict:
    return {"name": "sharded", "format": "tar_shards", "image_root": str(folder), **more}


def colours(records) -> list[int]:
    return [int(read_image(record["file_name"])[0, 0, 0]) for record in records]


def test_records_of_tags(shards: Path, card):
    made = card(**fields(shards))
    records = get_records("sharded")
    assert (made.supervision, made.evaluator, len(records)) == ("tags", "none", 5)
    assert get_vocabulary("sharded").names == ("cat", "dog", "elk")
    assert [r["image_labels"] for r in records] == [[0, 1], [1], [2], [], []]
    assert [r.get("captions") for r in records] == [["A cat and a dog."], ["Just a dog"], [], [], []]
    assert [r["image_id"] for r in records] == [1, 2, 3, 4, 5]
    assert all(r["annotations"] == [] and r["supervision"] == "tags" for r in records)
    assert [Path(r["file_name"]).name for r in records] == ["1.png", "2.png", "3.png", "4.png", "6.png"]
    assert colours(records) == [10, 20, 30, 40, 60]
    counts = dataset_report("sharded").counts
    assert [counts[k] for k in ("images", "annotated_images", "empty_images", "tags")] == [5, 3, 2, 4]


def test_records_of_captions(shards: Path, card):
    card(**fields(shards, supervision="captions"))
    records = get_records("sharded")
    assert "image_labels" not in records[0] and records[0]["captions"] == ["A cat and a dog."]
    assert dataset_report("sharded").counts["annotated_images"] == 2
    assert [r["captions"] for r in records.without_empty()] == [["A cat and a dog."], ["Just a dog"]]


def test_detectron2s_own_functions_read_the_images(shards: Path, card):
    card(**fields(shards))
    name = get_records("sharded")[1]["file_name"]
    assert detection_utils.read_image(name, "RGB").shape == (20, 50, 3)
    assert PathManager.isfile(name) and PathManager.exists(name)
    with PathManager.open(name, "rb") as file:
        assert file.read() == jpeg(20, (20, 50)) and file.name == name
    with pytest.raises(ValueError, match="can only be read"):
        PathManager.open(name, "wb")


@pytest.mark.parametrize(("labels", "names"), [("folder", ["n1", "n2"]), ("shard", ["one"])])
def test_labels_by_folder_and_by_tar_file(tmp_path: Path, labels: str, names: list[str]):
    write_tar(tmp_path / "one.tar", {"n1/x.png": jpeg(1), "./n2/y.png": jpeg(2)})
    index = make_index(tmp_path, labels)
    if labels == "folder":  # "./" is no folder
        assert list(index.labels) == names
    assert index.arrays["labels"].tolist() == ([0, 1] if labels == "folder" else [0, 0])


def test_the_words_of_a_vocabulary(shards: Path, card, tmp_path: Path):
    (tmp_path / "words.tsv").write_text("cat\tCat\ndog\thound\n")
    card(**fields(shards, vocabulary=["hound", "cat", "bird"], options={"other_labels": "drop"},
                  files={"classes": str(tmp_path / "words.tsv")}))  # fmt: skip
    assert [r["image_labels"] for r in get_records("sharded")] == [[0, 1], [0], [], [], []]
    assert dataset_report("sharded").counts["dropped_labels"] == 1
    card(**fields(shards, vocabulary=["dog", "cat"], ignore=["elk"]) | {"name": "other"})
    assert [r["image_labels"] for r in get_records("other")] == [[0, 1], [0], [], [], []]
    assert dataset_report("other").counts["ignored"] == 1


def test_numbers_are_class_indices(tmp_path: Path, card):
    write_tar(tmp_path / "x.tar", {"1.png": jpeg(1), "1.cls": "2", "2.png": jpeg(2), "2.json": '{"cls": [0, 1]}'})
    make_index(tmp_path)
    card(**fields(tmp_path, vocabulary=["a", "b", "c"]))
    assert [r["image_labels"] for r in get_records("sharded")] == [[2], [0, 1]]
    card(**fields(tmp_path, vocabulary=["a", "b"]) | {"name": "short"})
    with pytest.raises(ValueError, match="label 2 is no class index of vocabulary 'short'"):
        get_records("short")


def test_a_tag_that_is_in_no_vocabulary(shards: Path, card):
    card(**fields(shards, vocabulary=["cat", "dog", "elf"]))
    with pytest.raises(ValueError, match=r"'elk' \(tar files in .*; nearest: elf"):
        get_records("sharded")


def test_split(shards: Path, card, tmp_path: Path):
    (tmp_path / "list.txt").write_text("2.png\n3\n")
    card(**fields(shards, split=str(tmp_path / "list.txt")))
    records = get_records("sharded")
    assert [r["image_id"] for r in records] == [2, 3] and colours(records) == [20, 30]
    assert dataset_report("sharded").counts["unlisted_images"] == 3


# ---- the index


def test_index_command(shards: Path, capsys):
    os.remove(shards / INDEX_NAME)
    assert main(["index", str(shards), "--workers", "2"]) == 0
    printed = capsys.readouterr()
    assert "tar files" in printed.out and "1 images" not in printed.err
    index = open_index(shards / INDEX_NAME)
    assert index.counts["images"] == 5 and index.counts["bad_sidecar"] == 1 and index.counts["empty"] == 1
    assert index.counts["without_label"] == 2 and index.counts["other"] == 1
    assert main(["index", str(shards / "nothing")]) == 2
    assert "no tar file (*.tar) in" in capsys.readouterr().err


def test_what_is_left_out_is_told(shards: Path, caplog):
    make_index(shards)
    assert "5.png is empty: left out" in caplog.text and "6.json cannot be used" in caplog.text


def test_index_without_labels(tmp_path: Path):
    write_tar(tmp_path / "x.tar", {"1.png": jpeg(1)})
    with pytest.raises(ValueError, match=r"nothing is said about any of the 1 images.*--labels shard"):
        make_index(tmp_path)
    write_tar(tmp_path / "x.tar", {"1.txt": "no image"})
    with pytest.raises(ValueError, match=r"none of the 1 tar files in .* holds an image"):
        make_index(tmp_path)


def test_many_members_of_long_and_foreign_names(tmp_path: Path, card):
    names = ["x" * 150 + f"/{'y' * 120}{i}.png" for i in range(3)] + ["schön/ärger.png", "p/" * 60 + "z.png"]
    for number, kind in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        write_tar(tmp_path / f"{number}.tar", {n: jpeg(i + 10 * number) for i, n in enumerate(names)}, kind)
    write_tar(tmp_path / "2.tar", {n: jpeg(i + 20) for i, n in enumerate(names[3:])}, tarfile.USTAR_FORMAT)
    make_index(tmp_path, "shard")
    card(**fields(tmp_path))
    records = get_records("sharded")
    assert colours(records) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 20, 21]
    assert [parse_member(r["file_name"]).name for r in records[:5]] == names


def test_gzipped_members(tmp_path: Path, card):
    write_tar(tmp_path / "n01.tar", {"1.JPEG": gzip.compress(jpeg(77))})
    make_index(tmp_path, "shard")
    card(**fields(tmp_path))
    assert colours(get_records("sharded")) == [77]


def test_compressed_tar_files(tmp_path: Path):
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"x.tar.gz is compressed"):
        make_index(tmp_path)
    (tmp_path / "x.tar").write_bytes(gzip.compress(write_tar(tmp_path / "y", {"1.png": jpeg(1)}).read_bytes()))
    with pytest.raises(ValueError, match=r"x.tar is compressed.*gunzip"):
        make_index(tmp_path)


@pytest.mark.parametrize("cut", ["in a member", "in a header", "damaged header", "at a member"])
def test_damaged_tar_files_are_not_indexed(tmp_path: Path, cut: str):
    path = write_tar(tmp_path / "x.tar", {f"{i}.png": jpeg(i) for i in range(4)})
    with tarfile.open(path) as tar:
        member = tar.getmembers()[2]
    data = bytearray(path.read_bytes())
    if cut == "in a member":
        data = data[: member.offset_data + 10]
    elif cut == "in a header":
        data = data[: member.offset + 100]
    elif cut == "at a member":
        data = data[: member.offset]
    else:
        data[member.offset + 5] ^= 255
    path.write_bytes(data)
    if cut == "at a member":  # a tar file without its end mark: what is there is whole
        assert make_index(tmp_path, "shard").counts["images"] == 2
    else:
        with pytest.raises(ValueError, match=r"x.tar is damaged"):
            make_index(tmp_path, "shard")


# ---- an index that does not fit


def test_changed_tar_files(shards: Path, card):
    card(**fields(shards))
    path = shards / "000.tar"
    data = path.read_bytes()
    os.utime(path, (1, 1))  # a copy with another time
    assert len(get_records("sharded")) == 5
    other = bytearray(data)
    other[600] ^= 1
    path.write_bytes(other)
    check = open_index(shards / INDEX_NAME).files
    with pytest.raises(ValueError, match=r"000.tar has changed since the index was made; make the index again"):
        check_files(check, shards, "dataset 'x'")
    path.write_bytes(data[:-512])
    with pytest.raises(ValueError, match="the index was made when it had"):
        check_files(check, shards, "dataset 'x'")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 tar files of the index are missing in .*: 000.tar"):
        check_files(check, shards, "dataset 'x'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-10], "it was cut off"),
        (lambda data: b"PK" + data, "does not start like one"),
        (lambda data: data[:40], "no usable index"),
        (lambda data: b"", "does not start like one"),
        (lambda data: data.replace(b'"version": 1', b'"version": 7'), "version 7"),
    ],
)
def test_damaged_index(shards: Path, card, change, message: str):
    card(**fields(shards))
    path = shards / INDEX_NAME
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        get_records("sharded")
    assert "dataset 'sharded'" in str(error.value) and "python -m mvseg.data index" in str(error.value)


def test_no_index_and_no_labels(tmp_path: Path, card):
    write_tar(tmp_path / "x.tar", {"1.png": jpeg(1), "1.txt": "words"})
    card(**fields(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"there is no index .*mvseg.index; make the index again: python -m"):
        get_records("sharded")
    make_index(tmp_path)
    with pytest.raises(ValueError, match="has no labels: say supervision: captions"):
        get_records("sharded")


def test_a_wrong_address(shards: Path):
    path = str(shards / "000.tar")
    index = open_index(shards / INDEX_NAME)
    offset, size = int(index.arrays["offset"][0]), int(index.arrays["size"][0])
    assert read_member(member_url(path, offset, size, "a/1.png")) == jpeg(10)
    for wrong in ((offset + 512, size, "a/1.png"), (offset, size + 1, "a/1.png"), (offset, size, "a/7.png"),
                  (10**9, size, "a/1.png"), (0, size, "a/1.png")):  # fmt: skip
        with pytest.raises(TarMemberError, match="make the index again"):
            read_member(member_url(path, *wrong))
        with pytest.raises(ImageReadError, match="TarMemberError"):
            read_image(member_url(path, *wrong))
    with pytest.raises(ImageReadError, match="does not exist"):
        read_image(member_url(path + "x", offset, size, "a/1.png"))
    with pytest.raises(ImageReadError):
        read_image("tar://nonsense")


# ---- reading


def test_more_tar_files_than_are_kept_open(tmp_path: Path, card):
    for number in range(OPEN_FILES + 10):
        write_tar(tmp_path / f"{number:03}.tar", {"x.png": jpeg(number)})
    make_index(tmp_path, "shard")
    card(**fields(tmp_path))
    records = get_records("sharded")
    order = np.random.default_rng(0).integers(len(records), size=400).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: colours([records[i]])[0], order)) == order
    opened = [p for p in Path("/proc/self/fd").iterdir() if os.path.realpath(p).endswith(".tar")]
    assert len(opened) <= OPEN_FILES


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_member_is_replaced_and_counted(tmp_path: Path, card, workers: int):
    members = {f"{i}.png": jpeg(i) for i in range(12)}
    members["5.png"] = members["5.png"][:40] + bytes(len(members["5.png"]) - 40)
    write_tar(tmp_path / "x.tar", members)
    make_index(tmp_path, "shard")
    card(**fields(tmp_path))
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.SEED, cfg.SOLVER.IMS_PER_BATCH = ("sharded",), 0, 4
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.MAX_BAD_IMAGES = workers, 0.1
    cfg.INPUT.RANDOM_FLIP = "none"
    loader = build_train_loader(cfg)
    batches = [batch for batch, _ in zip(loader, range(3))]
    images = sorted(sample["image_id"] for batch in batches for sample in batch)
    assert len(images) == 12 and 6 not in images
    assert all(s["image_labels"] == [0] and len(s["instances"]) == 0 for batch in batches for s in batch)
    assert len(loader.bad_images) == 1 and "5.png" in loader.bad_images.summary()
    cfg.DATALOADER.MAX_BAD_IMAGES = 0.0
    with pytest.raises(ImageReadError, match=r"1 of 12 images are unreadable.*MAX_BAD_IMAGES"):
        [batch for batch, _ in zip(build_train_loader(cfg), range(3))]


def test_commands_that_look_at_data(shards: Path, capsys, tmp_path: Path):
    (tmp_path / "card.yaml").write_text(f"name: looked_at_tars\nformat: tar_shards\nimage_root: {shards}\n")
    cards = ["--cards", str(tmp_path / "card.yaml")]
    try:
        assert main(["stats", *cards, "looked_at_tars"]) == 0
        assert main(["show", *cards, "looked_at_tars", "--output", str(tmp_path / "sheet.png"), "--images", "2,3"]) == 0
        assert (tmp_path / "sheet.png").is_file() and "2 images of looked_at_tars" in capsys.readouterr().out
        os.remove(shards / INDEX_NAME)
        assert main(["list", *cards]) == 0
        row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("looked_at_tars"))
        assert row.endswith("mvseg.index")
    finally:
        unregister_card("looked_at_tars")


def test_check_finds_corrupt_members(tmp_path: Path):
    from mvseg.data.card import make_card

    bad = jpeg(3)[:60]
    write_tar(tmp_path / "x.tar", {"1.png": jpeg(1), "2.png": bad, "3.png": jpeg(1), "4.png": jpeg(9)})
    make_index(tmp_path, "shard")
    found = inspect_card(make_card(fields(tmp_path)))
    kinds = [problem.kind for problem in found.problems]
    assert kinds.count("unreadable") == 1 and kinds.count("same_picture") == 1 and found.images == 4


def test_records_travel_to_processes_as_a_place_in_the_file(shards: Path, card):
    card(**fields(shards))
    records = get_records("sharded")
    sent = pickle.dumps(records)
    assert b"A cat and a dog" not in sent
    shutil.copy(shards / INDEX_NAME, shards / "copy")
    code = f"import mvseg, pickle; r = pickle.loads({sent!r}); print(r[0], type(r.columns.labels.values).__name__)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "A cat and a dog." in other.stdout and "memmap" in other.stdout
    assert isinstance(pickle.loads(sent), ColumnRecords) and list(pickle.loads(sent)) == list(records)

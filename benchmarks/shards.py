"""Tar files with an index: memory and time with millions of images, and reading against plain files.

Run: ``python benchmarks/shards.py`` (about two minutes, 0.5 GB on disk). ``--help`` lists the options. Nothing is
downloaded: the index of millions of images is written without them, and the images that are read are noise.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import mvseg  # noqa: F401  (first: it makes detectron2 importable)
from mvseg.config import get_cfg
from mvseg.data.catalog import get_records, register_dataset
from mvseg.data.index_file import INDEX_NAME, TarFile, fingerprint, write_index
from mvseg.data.indexing import make_index
from mvseg.data.loader import build_train_loader
from mvseg.data.reading import read_image
from mvseg.data.tar_files import read_file

NAME = "benchmark_shards"


def memory() -> tuple[float, float]:
    """Measure this process.

    Returns:
        Resident memory of its own, and mapped from files (shared with all processes), MiB.
    """
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024, int(fields["RssFile"].split()[0]) / 1024


def write_large_index(folder: Path, images: int, classes: int, shards: int = 1000) -> None:
    """Write the index of images that do not exist, in tar files that are empty but have their size."""
    random = np.random.default_rng(0)
    per_shard = -(-images // shards)
    files = []
    for number in range(shards):
        path = folder / f"{number:06}.tar"
        path.touch()
        os.truncate(path, per_shard * 40_960 + 10_240)  # a sparse file
        stat = path.stat()
        files.append(TarFile(path.name, stat.st_size, stat.st_mtime_ns, fingerprint(path), per_shard))
    row = np.arange(images, dtype=np.int64)
    names = np.char.add(np.char.zfill(row.astype("S7"), 9), b".jpg")
    arrays = {
        "shard": (row // per_shard).astype(np.int32),
        "offset": row % per_shard * 40_960 + 512,
        "size": np.full(images, 40_000, np.int64),
        "names": np.frombuffer(names.tobytes(), np.uint8),
        "name_starts": np.arange(images + 1, dtype=np.int64) * 13,
        "labels": np.minimum(random.zipf(1.2, images), classes).astype(np.int32) - 1,
        "label_starts": np.arange(images + 1, dtype=np.int64),
    }
    counts = {"images": images, "labels": images}
    write_index(folder / INDEX_NAME, files, [f"class {i}" for i in range(classes)], arrays, counts)


def measure_large(folder: Path, sampler: str) -> None:
    """Open a large index and train from it, in a process of its own; prints one line for each step."""
    before, files_before = memory()

    def tell(what: str, seconds: float) -> None:
        own, mapped = memory()
        print(
            f"  {what:58}{seconds:9.3f} s {own - before:8.0f} MiB own {mapped - files_before:8.0f} MiB mapped",
            flush=True,
        )

    start = time.perf_counter()
    register_dataset(name=NAME, format="tar_shards", image_root=str(folder))
    records = get_records(NAME)
    tell(f"open, {len(records):,} records", time.perf_counter() - start)
    order = np.random.default_rng(1).integers(len(records), size=100_000).tolist()
    start = time.perf_counter()
    for place in order:
        records[place]
    seconds = time.perf_counter() - start
    tell(f"100,000 records at random: {len(order) / seconds:,.0f}/s", seconds)
    cfg = get_cfg()
    cfg.DATASETS.MIX = [{"name": NAME, "sampler": sampler}]
    cfg.SEED, cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = 0, 0, 32
    start = time.perf_counter()
    loader = build_train_loader(cfg, mapper=dict)
    tell(f"training loader, sampler {sampler}", time.perf_counter() - start)
    start = time.perf_counter()
    batches = iter(loader)
    next(batches)
    tell("first batch (the order of the epoch is drawn)", time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(300):
        next(batches)
    tell("300 batches of 32 records", time.perf_counter() - start)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(f"  largest memory of the whole process: {int(peak.split()[1]) / 1024:,.0f} MiB (it started with "
          f"{before + files_before:,.0f})")  # fmt: skip


def write_images(folder: Path, images: int, side: int) -> None:
    """Write JPEGs twice: as files in class folders, and in tar files."""
    random = np.random.default_rng(0)
    contents = []
    for _ in range(64):
        coarse = random.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    for shard in range(20):
        (folder / f"files/{shard:03}").mkdir(parents=True)
        (folder / "tar").mkdir(exist_ok=True)
        with tarfile.open(folder / f"tar/{shard:03}.tar", "w") as tar:
            for number in range(images // 20):
                content = contents[(number + shard) % 64]
                (folder / f"files/{shard:03}/{number:06}.jpg").write_bytes(content)
                member = tarfile.TarInfo(f"{number:06}.jpg")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def speed(names: list[str], read: Callable[[str], object], count: int, seed: int) -> float:
    """Read images at random, each at most once; images per second."""
    chosen = np.random.default_rng(seed).choice(len(names), count, replace=False).tolist()
    start = time.perf_counter()
    for place in chosen:
        read(names[place])
    return count / (time.perf_counter() - start)


def forget(folder: Path) -> None:
    """Ask the operating system to forget the files' content, so that it is read from the disk again."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def measure_reading(folder: Path, images: int, side: int) -> None:
    """Compare plain files with tar files; prints a table."""
    write_images(folder, images, side)
    start = time.perf_counter()
    make_index(folder / "tar", "shard")
    print(f"  index of {images:,} images: {images / (time.perf_counter() - start):,.0f} images/s")
    sources = {}
    for name, kind in (("files", "image_folder"), ("tar", "tar_shards")):
        register_dataset(name=f"{NAME}_{name}", format=kind, image_root=str(folder / name))
        sources[name] = [record["file_name"] for record in get_records(f"{NAME}_{name}")]
    size = sum(path.stat().st_size for path in (folder / "files").rglob("*.jpg")) / images
    print(f"  images of {side} x {side}, {size / 1000:.0f} kB; images/s, best of 3     files      tar")
    readings: tuple[tuple[str, Callable[[str], object], bool], ...] = (
        ("bytes, first reading from disk", read_file, True),
        ("bytes, in the disk cache", read_file, False),
        ("decoded, in the disk cache", read_image, False),
    )
    for what, read, cold in readings:
        best = dict.fromkeys(sources, 0.0)
        for turn in range(3):
            for name, names in sources.items():  # in turn, so that other load hits both
                if cold:
                    forget(folder / name)
                count = min(len(names), 2000 if read is read_file else 500)
                best[name] = max(best[name], speed(names, read, count, turn))
        print(f"  {what:50}{best['files']:10,.0f}{best['tar']:10,.0f}")


def main() -> None:
    """Write the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=5_000_000, help="images of the large index")
    parser.add_argument("--classes", type=int, default=21_841, help="labels of the large index")
    parser.add_argument("--images", type=int, default=10_000, help="images that are read")
    parser.add_argument("--side", type=int, default=320, help="their side in pixels")
    parser.add_argument("--large", nargs=2, metavar=("FOLDER", "SAMPLER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.large:
        measure_large(Path(options.large[0]), options.large[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_large_index(Path(folder), options.records, options.classes)
        size = (Path(folder) / INDEX_NAME).stat().st_size
        what = f"index of {options.records:,} images, {options.classes:,} labels"
        seconds = time.perf_counter() - start
        print(
            f"{what}: {size / 2**20:.0f} MiB, {size / options.records:.0f} bytes an image, written in {seconds:.1f} s"
        )
        for sampler in ("uniform", "repeat_factor"):
            print(f"sampler {sampler}:", flush=True)
            subprocess.run([sys.executable, __file__, "--large", folder, sampler], check=True)
    print("reading:")
    with tempfile.TemporaryDirectory() as folder:
        measure_reading(Path(folder), options.images, options.side)


if __name__ == "__main__":
    main()

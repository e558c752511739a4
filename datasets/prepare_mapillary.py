"""COCO JSON of the instances of Mapillary Vistas (``python datasets/prepare_mapillary.py --version 1.2``).

Reads the instance maps (16 bits: label * 256 + number of the object) of both splits once, for 20,000 large PNGs are too
many to read at the start of every training, and writes annotations/instances_v1.2_{train,val}.json beside them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import mvseg  # noqa: F401  (lets detectron2 resolve)
from mvseg.data.card import DatasetCard, datasets_root
from mvseg.data.coco_file import coco_tree, write_json
from mvseg.data.sources import find_source

SPLITS = {"training": "train", "validation": "val"}
VOCABULARY = {"1.2": {"table": "mapillary_65", "kind": "thing"}, "2.0": None}


def make_card(root: Path, version: str, split: str) -> DatasetCard:
    """Describe the instance maps of one split.

    Args:
        root: folder of the dataset, as version 2.0 of the archive or as version 1.x lays it out.
        version: "1.2" or "2.0".
        split: "training" or "validation".

    Returns:
        A card; whether its files exist is not checked.
    """
    folder, labels = root / split / f"v{version}", root / f"config_v{version}.json"
    if version == "1.2" and not folder.exists():  # the archives before 2.0
        folder, labels = root / split, root / "config.json"
    return DatasetCard(
        name=f"mapillary_v{version}_{split}",
        format="instance_maps",
        image_root=str((root / split / "images").resolve()),
        annotations=str((folder / "instances").resolve()),
        files={"labels": str(labels.resolve())},
        vocabulary=VOCABULARY[version],
        options={"divisor": 256},
        prepare="Unpack Mapillary Vistas; datasets/README.md shows the folder layout.",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and write the files.

    Args:
        arguments: the command line without the program's name; None: that of the process.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the dataset; default: mapillary under $DETECTRON2_DATASETS")
    parser.add_argument("--version", choices=sorted(VOCABULARY), default="1.2")
    parser.add_argument("--splits", nargs="+", choices=sorted(SPLITS), default=sorted(SPLITS))
    args = parser.parse_args(arguments)
    root = Path(args.root) if args.root else datasets_root() / "mapillary"
    try:
        for split in args.splits:
            card = make_card(root, args.version, split)
            loaded = find_source(card)(card, card.read_vocabulary())
            print(loaded.report.table())
            assert loaded.vocabulary is not None  # the source always has one
            target = root / "annotations" / f"instances_v{args.version}_{SPLITS[split]}.json"
            write_json(target, coco_tree(loaded.records, loaded.vocabulary, Path(card.image_root)))
            print(f"{target}: {len(loaded.records):,} images")
    except (ValueError, OSError) as error:
        print(f"prepare_mapillary: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Looks through stored crop embeddings: checksums, shapes, lengths, numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mvseg.data.crop_embeddings import EMBEDDINGS, LENGTH_TOLERANCE, CropEmbeddingFolder
from mvseg.data.proposal_files import BOXES, is_whole

BLOCK = 65536  # rows looked at at a time


def check_folder(folder: str | Path) -> tuple[list[str], str]:
    """Look through all shards of a folder.

    Args:
        folder: the folder.

    Returns:
        Complaints, empty if all is well, and a line that says what is there.
    """
    stored = CropEmbeddingFolder(folder)
    complaints, rows = [], 0
    for number, entry in enumerate(stored.manifest["shards"]):
        path = Path(folder) / f"shard-{number:05d}"
        head = Path(f"{path}.json")
        if not is_whole(Path(folder), number) or json.loads(head.read_text())["rows"] != entry["rows"]:
            complaints.append(f"{path}.*: missing, or another checksum than when it was written")
            continue
        embeddings = np.load(f"{path}.{EMBEDDINGS}.npy", mmap_mode="r", allow_pickle=False)
        boxes = np.load(f"{path}.{BOXES}.npy", mmap_mode="r", allow_pickle=False)
        if len(embeddings) != len(boxes) or (len(boxes) and embeddings.shape[1:] != (stored.width,)):
            complaints.append(f"{path}: {len(boxes)} boxes, embeddings of shape {embeddings.shape}")
            continue
        rows += len(embeddings)
        for start in range(0, len(embeddings), BLOCK):
            lengths = np.linalg.norm(embeddings[start : start + BLOCK].astype(np.float32), axis=1)
            wrong = int((~(np.abs(lengths - 1) < LENGTH_TOLERANCE)).sum())
            if wrong:
                complaints.append(f"{path}: {wrong} embeddings from row {start} on do not have the length 1")
    made = stored.manifest
    line = (
        f"{folder}: {len(stored)} images of {made['dataset']!r}, {rows} crops, width {stored.width}, teacher "
        f"{made['teacher_description']} ({made['teacher'][:8]}), scales {made['scales']}, resize {made['resize']}"
    )
    return complaints, line

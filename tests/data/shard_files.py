"""Small tar files of images, for the tests of their readers."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def jpeg(value: int, size: tuple[int, int] = (30, 40), kind: str = "PNG") -> bytes:
    """An image of one grey value."""
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes | str], kind: int = tarfile.GNU_FORMAT) -> Path:
    """Write members in their order; a name that ends in a slash is a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            data = content.encode() if isinstance(content, str) else content
            info.size = len(data)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                tar.addfile(info, io.BytesIO(data))
    return path


def webdataset(folder: Path) -> Path:
    """Two tar files with labels and sentences beside the images."""
    write_tar(
        folder / "000.tar",
        {
            "a/1.png": jpeg(10),
            "a/1.cls": "cat|dog\n",
            "a/1.txt": "A cat\n and  a dog.",
            "a/2.png": jpeg(20, (20, 50)),
            "a/2.json": '{"labels": ["dog"], "caption": "Just a dog", "width": 50}',
            "a/notes.md": "nothing of ours",
            "b/": "",
        },
    )
    write_tar(
        folder / "more/001.tar",
        {"3.cls": "elk", "3.png": jpeg(30), "4.png": jpeg(40), "5.png": b"", "6.json": "{", "6.png": jpeg(60)},
        tarfile.PAX_FORMAT,
    )
    return folder

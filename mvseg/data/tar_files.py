"""Images inside uncompressed tar files: addresses that any reader can open, and their bytes by random access.

An address ``tar://FOLDER/0001.tar@1536+20480/dogs/7.jpg`` says where the member's bytes start and how many there are.
Detectron2's ``PathManager`` opens it, and with it every mapper that reads its images with Detectron2's functions.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import threading
from collections import OrderedDict
from typing import Any, NamedTuple

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

PREFIX = "tar://"
BLOCK = 512
OPEN_FILES = 64  # tar files that a process keeps open; an operating system often allows 1,024 files in all
_ADDRESS = re.compile(r"tar://(?P<file>.*)@(?P<offset>\d+)\+(?P<size>\d+)/(?P<name>.*)", re.DOTALL)
_GZIP = b"\x1f\x8b"


class TarMemberError(OSError):
    """The bytes at an address are not the image that they are said to be."""


class Member(NamedTuple):
    """One file inside a tar file: path of that, first byte, number of bytes, name inside."""

    file: str
    offset: int
    size: int
    name: str


def member_url(file: str, offset: int, size: int, name: str) -> str:
    """Write the address of a member of a tar file.

    Args:
        file: path of the tar file.
        offset: first byte of the member's content.
        size: number of bytes.
        name: name of the member, for people and for the check that it is the right one.

    Returns:
        An address for ``file_name`` of a record.
    """
    return f"{PREFIX}{file}@{offset}+{size}/{name}"


def parse_member(url: str) -> Member:
    """Read the address of a member of a tar file.

    Args:
        url: from :func:`member_url`.

    Returns:
        Its parts.

    Raises:
        ValueError: if it is no such address.
    """
    found = _ADDRESS.fullmatch(url)
    if found is None:
        raise ValueError(f"{url!r} is no address in a tar file, which looks like {PREFIX}FILE.tar@OFFSET+SIZE/NAME")
    return Member(found["file"], int(found["offset"]), int(found["size"]), found["name"])


def is_there(file_name: str) -> bool:
    """Say whether an image exists, without opening it.

    Args:
        file_name: path, or address in a tar file.

    Returns:
        For an address whether its tar file exists.
    """
    found = _ADDRESS.fullmatch(file_name) if file_name.startswith(PREFIX) else None
    return os.path.isfile(found["file"] if found else file_name)


def read_file(file_name: str) -> bytes:
    """Read the bytes of an image file or of a member of a tar file.

    Args:
        file_name: path, or address in a tar file.

    Returns:
        The bytes as they are stored, unzipped for a member that is gzip'ed by itself (ImageNet has such).

    Raises:
        OSError: if the file does not exist, or the address is wrong.
    """
    if file_name.startswith(PREFIX):
        return read_member(file_name)
    with PathManager.open(file_name, "rb") as file:
        return file.read()


def read_member(url: str) -> bytes:
    """Read a member of a tar file, after a look at the header in front of it.

    Args:
        url: from :func:`member_url`.

    Returns:
        Its bytes.

    Raises:
        TarMemberError: if there is another member, or none, at this place, or the file ends before it does.
    """
    member = parse_member(url)
    start = member.offset - BLOCK
    data = _open_tar(member.file).read(member.size + BLOCK, start) if start >= 0 else b""
    if len(data) < member.size + BLOCK:
        raise TarMemberError(f"{member.file} ends inside {member.name}: {_ADVICE}")
    _check_header(member, data[:BLOCK])
    content = data[BLOCK:]
    return gzip.decompress(content) if content[:2] == _GZIP else content


_ADVICE = "the file is cut off, or its index is of another file; make the index again (python -m mvseg.data index)"


def _check_header(member: Member, header: bytes) -> None:
    name = member.name.encode("utf-8", errors="surrogateescape")
    if header.startswith(name + b"\0") and header[124:136].rstrip(b"\0 ") == b"%011o" % member.size:
        return  # the usual case, at a tenth of the time
    where = f"{member.file}, byte {member.offset}"
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise TarMemberError(f"{where}: no member starts here ({error}): {_ADVICE}") from error
    # A long or foreign name lies in a header before this one, and here only a part of it.
    told = member.name.isascii() and len(member.name) < 100
    if found.size != member.size or (told and found.name != member.name.rstrip("/")):
        raise TarMemberError(
            f"{where}: found {found.name} of {found.size} bytes, not {member.name} of {member.size}: {_ADVICE}"
        )


class _Tar:
    """An open tar file; closed when the last one who reads from it has let go."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def read(self, size: int, offset: int) -> bytes:
        # No common position: threads, and processes that inherited the file, do not disturb one another.
        return os.pread(self.fd, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


_open: OrderedDict[str, _Tar] = OrderedDict()
_lock = threading.Lock()


def _open_tar(path: str) -> _Tar:
    with _lock:
        tar = _open.pop(path, None) or _Tar(path)
        _open[path] = tar
        while len(_open) > OPEN_FILES:
            _open.popitem(last=False)
        return tar


def close_files() -> None:
    """Close the tar files that are kept open, as before one is replaced by another of the same name."""
    with _lock:
        _open.clear()


class _Bytes(io.BytesIO):
    """A file in memory that knows where it comes from; messages about broken images name it."""

    name = ""


class TarMemberHandler(PathHandler):
    """Lets Detectron2's ``PathManager`` open addresses in tar files."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        if mode not in ("r", "rb", "rt"):
            raise ValueError(f"{path}: images in tar files can only be read, not opened with mode {mode!r}")
        file = _Bytes(read_member(path))
        file.name = path
        return file if mode == "rb" else io.TextIOWrapper(file, **kwargs)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return is_there(path)

    _isfile = _exists


PathManager.register_handler(TarMemberHandler(), allow_override=True)

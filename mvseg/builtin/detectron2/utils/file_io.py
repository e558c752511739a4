"""One path manager for local files, http(s) and detectron2:// addresses."""

from typing import Any

from iopath.common.file_io import HTTPURLHandler, OneDrivePathHandler, PathHandler
from iopath.common.file_io import PathManager as PathManagerBase


class Detectron2Handler(PathHandler):
    """``detectron2://x`` is the file x of Detectron2's published weights."""

    PREFIX = "detectron2://"
    S3_DETECTRON2_PREFIX = "https://dl.fbaipublicfiles.com/detectron2/"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        return PathManager.get_local_path(self.S3_DETECTRON2_PREFIX + path.removeprefix(self.PREFIX), **kwargs)

    def _open(self, path: str, mode: str = "r", **kwargs: Any) -> Any:
        return open(self._get_local_path(path), mode, **kwargs)


PathManager = PathManagerBase()
for _handler in (HTTPURLHandler(), OneDrivePathHandler(), Detectron2Handler()):
    PathManager.register_handler(_handler)

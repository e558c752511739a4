"""Turning the weights of other projects into checkpoints and configs of mvseg."""

from mvseg.checkpoints.importing.comparison import Row, write_table
from mvseg.checkpoints.importing.files import read_passport
from mvseg.checkpoints.importing.run import ImportResult, import_weights

__all__ = ["ImportResult", "Row", "import_weights", "read_passport", "write_table"]

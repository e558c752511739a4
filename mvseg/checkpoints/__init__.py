"""Reading and writing of weights."""

from mvseg.checkpoints.checkpointer import AtomicCheckpointer, LoadReport, atomic_file

__all__ = ["AtomicCheckpointer", "LoadReport", "atomic_file"]

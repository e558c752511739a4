"""The commands of ``python -m mvseg.vocabulary``, one file each."""

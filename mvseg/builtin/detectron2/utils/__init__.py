"""Utilities: processes, files, events, logging, registries."""

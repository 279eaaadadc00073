"""What a path of a use case may name beside one file: a URL, or a glob."""

import glob
from pathlib import Path

COMPRESSED = (".gz", ".bz2", ".xz")
"""Endings of files that are unpacked while reading."""


def is_url(place: str) -> bool:
    """Looking at one may need the network."""
    return "://" in place


def is_glob(place: str) -> bool:
    """Whether a place names files by a pattern."""
    return glob.has_magic(place)


def is_there(place: str) -> bool:
    """Whether a file, a folder, or for a glob any file is there; a URL is believed."""
    if is_url(place) or Path(place).exists():
        return True
    return is_glob(place) and next(glob.iglob(place, recursive=True), None) is not None

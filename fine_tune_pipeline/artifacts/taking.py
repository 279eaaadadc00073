"""Taking over what a program has made: it stays where the program left it, so that a try that is killed now finds it again."""

import os
import shutil
from pathlib import Path


def taken_folder(source: Path, target: Path) -> None:
    """The same files in another folder, without a second copy where the file system allows; for files that nobody writes into again."""
    shutil.copytree(source, target, copy_function=linked)


def taken_file(source: Path, target: Path) -> None:
    """A copy."""
    shutil.copy2(source, target)


def linked(source: str | Path, target: str | Path) -> None:
    """One file under two names, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        # Another disk, or one without links; a full one says so here.
        shutil.copy2(source, target)

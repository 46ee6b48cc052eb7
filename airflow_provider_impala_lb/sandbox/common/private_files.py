"""Files and directories that only their owner may read: a practice cluster may stand on a machine of many."""

from __future__ import annotations

import os
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, also if it was there with another one.

    :param path: the file.
    :param text: all of its content.
    """
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)


def make_private(path: Path) -> Path:
    """Make a directory of mode 0700; one that is there keeps its own.

    :param path: the directory.
    :returns: the same path.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path

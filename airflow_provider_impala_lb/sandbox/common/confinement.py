"""Which files SQL may read, move and write: those of the cluster's directory, and of directories that were allowed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from airflow_provider_impala_lb.sandbox.common.errors import analysis_error

PRIVATE, TEMPORARY = "private", "tmp"
"""Directories of the cluster's own, where no table may be: logins, and what does not fit in memory."""


class Confinement:
    """The check that every path in a statement, and every file of a table, goes through.

    A practice cluster runs as whoever started it, whoever connects to it: without this, SQL would be that user's shell.

    :param directory: the cluster's. Tables may be in it, but for its own files: those directly in it, and in
        :data:`PRIVATE`, :data:`TEMPORARY` and directories with a dot in their names (the balancer's).
    :param allowed: other directories in which tables and files to load may be; default none.
    """

    def __init__(self, directory: Path, allowed: Sequence[Path] = ()) -> None:
        self._own = _real(directory)
        self._allowed = [_real(path) for path in allowed]

    @property
    def roots(self) -> list[str]:
        """All directories, for DuckDB's own check below this one."""
        return [str(path) for path in (self._own, *self._allowed)]

    def check(self, path: str | Path) -> Path:
        """The path without links and ``..``.

        :param path: of a file or directory, there or not.
        :raises Refused: it leads outside.
        """
        real = _real(path)
        if not (self._is_table_place(real) or any(real.is_relative_to(root) for root in self._allowed)):
            raise analysis_error(
                f"{path}: the practice cluster reads and writes files in its own directory only, "
                f"{self._own / 'warehouse'} and folders beside it, and in those that were allowed by name: "
                "Sandbox(allow=[DIRECTORY]), impala-lb sandbox --allow DIRECTORY."
            )
        return real

    def _is_table_place(self, real: Path) -> bool:
        if not real.is_relative_to(self._own):
            return False
        parts = real.relative_to(self._own).parts
        if not parts or parts[0] in (PRIVATE, TEMPORARY) or "." in parts[0]:
            return False
        return len(parts) > 1 or not real.is_file()


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))

"""Load that a coordinator reports beside its own, for tests of what a balancer makes of it: a small file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from airflow_provider_impala_lb.sandbox.common.private_files import write_private


@dataclass(frozen=True)
class SimulatedLoad:
    """What the metrics report beside the truth.

    :ivar memory: part of the process's memory limit in use, 0 to 1, instead of the real one; None (default): the real
        one.
    :ivar heap: the same of the JVM's heap.
    :ivar connections: open HiveServer2 connections beside the real ones; default 0.
    :ivar queries: registered queries beside the real ones; default 0.
    :ivar sessions: open sessions beside the real ones; default 0.
    :ivar queued: queries that wait for admission in the pool ``default-pool``, of 200 that may; default 0.
    """

    memory: float | None = None
    heap: float | None = None
    connections: int = 0
    queries: int = 0
    sessions: int = 0
    queued: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 0:
                raise ValueError(f"{name}={value}: 0 or more.")
        for name in ("memory", "heap"):
            if (getattr(self, name) or 0) > 1:
                raise ValueError(f"{name}={getattr(self, name)}: a part, 0 to 1.")

    @classmethod
    def read(cls, path: Path) -> SimulatedLoad:
        """The load that was written last; none where there is no file.

        :param path: the node's load file.
        """
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return cls()

    def write(self, path: Path) -> None:
        """Replace the file, in one step for its readers.

        :param path: the node's load file.
        """
        new = path.with_suffix(".new")
        write_private(new, json.dumps(asdict(self)))
        os.replace(new, path)

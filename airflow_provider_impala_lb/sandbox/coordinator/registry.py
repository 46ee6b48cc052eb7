"""Which coordinators the cluster has: a small file for each, in the shared directory."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class RegisteredNode:
    """A coordinator, as the others see it.

    :ivar address: ``host:port`` of its HiveServer2 port.
    :ivar web: URL of its web pages.
    :ivar pid: of its process.
    :ivar started: seconds since 1970.
    """

    address: str
    web: str
    pid: int
    started: float


def register(directory: Path, name: str, node: RegisteredNode) -> None:
    """Add a coordinator, or replace the one of that name.

    :param directory: the cluster's.
    :param name: the coordinator's.
    :param node: what the others shall see.
    """
    home = directory / "nodes"
    home.mkdir(exist_ok=True)
    (home / f"{name}.tmp").write_text(json.dumps(asdict(node)))
    os.replace(home / f"{name}.tmp", home / f"{name}.json")


def registered(directory: Path) -> list[RegisteredNode]:
    """The coordinators whose process lives, by name.

    :param directory: the cluster's.
    """
    nodes = [RegisteredNode(**json.loads(path.read_text())) for path in sorted((directory / "nodes").glob("*.json"))]
    return [node for node in nodes if Path(f"/proc/{node.pid}").exists()]

"""Which coordinators the cluster has: a small file for each, in the shared directory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def register(directory: Path, name: str, entry: dict[str, Any]) -> None:
    """:param entry: ``address``, ``web`` (URL), ``pid``, ``started``."""
    home = directory / "nodes"
    home.mkdir(exist_ok=True)
    (home / f"{name}.tmp").write_text(json.dumps(entry))
    os.replace(home / f"{name}.tmp", home / f"{name}.json")


def registered(directory: Path) -> list[dict[str, Any]]:
    """The coordinators whose process lives, by name."""
    entries = [json.loads(path.read_text()) for path in sorted((directory / "nodes").glob("*.json"))]
    return [entry for entry in entries if Path(f"/proc/{entry['pid']}").exists()]

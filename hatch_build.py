"""The package's description: the README without links that lead nowhere from a package index."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


def without_relative_links(text: str) -> str:
    """Links to this repository's files become their texts; those to headings and other sites stay."""
    return re.sub(r"\[([^]\n]+)\]\((?!https?://|#)[^)\n]+\)", r"\1", text)


class ReadmeHook(MetadataHookInterface):
    def update(self, metadata: dict) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": without_relative_links(text)}

"""The links of README and docs lead somewhere, in the repository and from a package index."""

import re
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[[^]\n]+\]\(([^)\n]+)\)")


def headings(path):
    """The anchors of a file's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(path):
    for link in LINK.findall(path.read_text()):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_the_description_in_a_package_index_has_no_link_into_the_repository():
    text = metadata.distribution("airflow-provider-impala-lb").read_text("METADATA")
    assert "docs/faults.md" in text
    assert [link for link in LINK.findall(text) if not link.startswith(("http", "#"))] == []

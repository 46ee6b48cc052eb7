"""docs/held_by.md names tests and mistakes that there are."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.architecture import ROOT

TEXT = (ROOT / "docs" / "held_by.md").read_text(encoding="utf-8")
EXPLORER = "tests/impala/statement/test_protocol.py"
MISTAKES = re.findall(r'^    "([^"]+)": \(', (ROOT / EXPLORER).read_text(encoding="utf-8"), re.MULTILINE)
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and "---" not in line and "held by |" not in line]


def names_in(path):
    return {node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:50])
def test_a_sentence_is_held(row):
    holders = row.split("|")[2]
    path, found = EXPLORER, 0
    for word in re.findall(r"`([^`]+)`|\*([^*]+)\*", holders):
        name, mistake = word
        if mistake:
            assert mistake in MISTAKES, mistake
        elif name.endswith(".py"):
            path = name
            assert (ROOT / path).is_file(), path
            continue
        else:
            assert name in names_in(path), f"{path}: {name}"
        found += 1
    assert found or holders.strip() == "assumed"


def test_every_known_mistake_holds_a_sentence():
    assert len(ROWS) > 40
    assert len(MISTAKES) > 20
    assert not [name for name in MISTAKES if f"*{name}*" not in TEXT]


def test_each_page_names_this_one():
    for page in ("protocol.md", "faults.md", "impala_versions.md"):
        assert "held_by.md" in Path(ROOT / "docs" / page).read_text(encoding="utf-8")

"""The rows of benchmarks/pick.py still measure something, also of another checkout."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import pick_rows

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("group", pick_rows.GROUPS)
def test_each_row_can_be_prepared_and_measured(tmp_path, group):
    (tmp_path / "rows").mkdir()
    rows = pick_rows.GROUPS[group](pick_rows.Place(str(tmp_path / "rows"), 0, days=1))
    assert all(row.base in rows or not row.base for row in rows.values())
    for row in rows.values():
        assert row.seconds() > 0
        assert row.seconds() > 0


@pytest.mark.slow
def test_two_checkouts_are_measured_in_turns(tmp_path):
    options = ["--against", str(ROOT), "--rounds", "0.01", "--only", "large", "1,000 waiting"]
    ran = subprocess.run(
        [sys.executable, "benchmarks/pick.py", *options], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert ran.stderr == ""
    assert ran.returncode in (0, 1)  # slower, or not: by chance, with so few rounds
    lines = [line for line in ran.stdout.splitlines() if " p50 " in line]
    assert len(lines) == 4 + 8

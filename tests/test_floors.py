"""The lowest versions that pyproject.toml allows are those that CI runs the quick tests with (`make test-floors`)."""

import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

CI = Path(__file__).parent.parent / ".ci"


def test_floors_are_the_versions_that_are_tried():
    tried = dict(re.findall(r"^([\w.-]+)==(\S+)", (CI / "floors.txt").read_text(), re.MULTILINE))
    needed = [Requirement(line) for line in requires("airflow-provider-impala-lb")]
    lowest = {each.name: Version(text) for each in needed for text in re.findall(r">=([^,]+)", str(each.specifier))}
    assert len(lowest) > 15
    assert {name: Version(tried[name]) for name in lowest} == lowest, "run: make floors"

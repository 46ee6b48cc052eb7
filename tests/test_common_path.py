"""The benchmark of the common path runs, and sees it from the operator to the socket."""

import pathlib
import re
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parents[1] / "benchmarks" / "common_path.py"


@pytest.mark.slow
def test_the_common_path_is_seen_from_execute_to_the_socket():
    done = subprocess.run([sys.executable, PROGRAM, "--functions"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    files = [match[1] for line in lines if (match := re.match(r" *\d+ (\S+\.py) +\d+ +\d+ +\d+$", line))]
    assert files[0] == "operators/impala_lb.py"
    assert {"hooks/impala_lb.py", "core/rules/placement.py", "stores/file/lock.py", "impala/hs2/session.py"} <= {*files}
    assert lines[2].split() == ["ImpalaLBOperator.execute"]
    assert re.fullmatch(rf"{len(files)} files \(\d+ lines\), \d+ functions, \d+ lines that ran", lines[-1])

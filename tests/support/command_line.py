"""The command ``impala-lb`` as a shell sees it, and the real ``impala-shell``."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.components import lacking

COMMAND = [sys.executable, "-m", "airflow_provider_impala_lb.cli"]


def lb(*arguments, config=None, **options):
    environment = {**os.environ, **({"IMPALA_LB_CONFIG": str(config)} if config else {})}
    if not config:
        environment.pop("IMPALA_LB_CONFIG", None)
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, env=environment, **options
    )


@pytest.fixture
def impala_shell():
    path = os.environ.get("IMPALA_SHELL") or shutil.which("impala-shell")
    if not path:
        lacking("impala-shell is not installed, or IMPALA_SHELL does not name it: it is NOT tested")
    return path

"""What a test needs of the machine, and does not find."""

import os
from typing import NoReturn

import pytest


def lacking(text: str) -> NoReturn:
    """Skip the test, with what is not tested now. Fail it where ``CI`` is set: there everything is installed, and what
    is skipped would look like what has passed."""
    if os.environ.get("CI"):
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


SERVERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("redis", "cluster", "gluster")]
"""Where a store may lie that is no file of this machine's, for the ``params`` of a fixture."""

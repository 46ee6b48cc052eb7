"""Workers of two versions: ``old`` is the wheel of the commit that fixed the formats, ``new`` the working tree."""

import os
import sys
from pathlib import Path

import pytest

from tests.support.two_versions import CHECKOUT, PACKAGE, Worker, python_of_old_version


@pytest.fixture(scope="session")
def pythons(tmp_path_factory):
    old = python_of_old_version(tmp_path_factory.mktemp("old_version"))
    return {"old": old, "new": Path(sys.executable)}


@pytest.fixture(scope="session")
def start_worker(pythons, tmp_path_factory):
    """``start_worker("old", **environment)``; whoever starts one kills it."""
    folder = tmp_path_factory.mktemp("workers")

    def start(version, **environment):
        worker = Worker(pythons[version], folder, {**os.environ, **environment})
        assert (Path(worker.file) == CHECKOUT / PACKAGE / "__init__.py") is (version == "new")
        return worker

    return start


@pytest.fixture
def start(start_worker):
    """As ``start_worker``; killed with the test."""
    workers = []

    def start(version, **environment):
        workers.append(start_worker(version, **environment))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture
def old(start):
    return start("old")


@pytest.fixture
def new(start):
    return start("new")

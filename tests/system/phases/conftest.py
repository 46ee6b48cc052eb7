"""All cases of a module run side by side, some at once; each test then asks for what its own has found."""

from __future__ import annotations

import os
import queue
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.system.phases.lab import Lab, add_numbers
from tests.system.phases.process import forks

AT_ONCE = 4


@pytest.fixture(scope="session")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # For the process that the workers are forked from; connections come from the environment, without a database.
    os.environ.setdefault("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
    os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    with forks():
        yield


@pytest.fixture(scope="module")
def clusters(workers: None) -> Iterator[list[Sandbox]]:
    """One for each case that runs at a time. Here the same for all: nobody does anything to it."""
    with Sandbox(nodes=3, lag=0, flags={"fe_service_threads": 128}, users=None) as cluster:
        add_numbers(cluster)
        yield [cluster] * AT_ONCE


@pytest.fixture(scope="module")
def found(
    request: pytest.FixtureRequest, clusters: list[Sandbox], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[object, Future[list[str]]]]:
    """What the module's ``check(case, lab)`` has found of each case that is to be tested."""
    check: Callable[..., list[str]] = request.module.check
    wanted = [
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec")
    ]
    free: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
    for cluster in clusters:
        free.put(cluster)

    def run(number: int, case: object, directory: Path) -> list[str]:
        cluster = free.get()
        lab = None
        try:
            lab = Lab(cluster, f"case{number}", directory)
            faults = check(case, lab)
            return [*faults, lab.story()] if faults else []
        except BaseException:
            return [traceback.format_exc(), lab.story() if lab else ""]
        finally:
            if lab is not None:
                lab.close()
            free.put(cluster)

    with ThreadPoolExecutor(len(clusters)) as pool:
        yield {
            case: pool.submit(run, number, case, tmp_path_factory.mktemp("case")) for number, case in enumerate(wanted)
        }
        pool.shutdown(cancel_futures=True)

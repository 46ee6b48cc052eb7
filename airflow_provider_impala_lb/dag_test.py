"""The pytest fixture ``impala_run_dag``. Every pytest start loads this module: keep it light."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

    from airflow_provider_impala_lb.sandbox import Sandbox


@pytest.fixture(scope="session")
def _airflow_database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a database of Airflow's, made for this pytest session."""
    home = tmp_path_factory.mktemp("airflow")
    url = f"sqlite:///{home / 'airflow.db'}"
    environment = {**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url}
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  our own
    if done.returncode:
        pytest.fail(f"airflow db migrate failed:\n{done.stderr[-2000:]}", pytrace=False)
    return url


@pytest.fixture
def impala_run_dag(
    impala_sandbox: Sandbox, _airflow_database: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., DagRun]]:
    """Run DAGs in this process, with the practice cluster as connection ``impala_lb_default``.

    ``impala_run_dag(dag, **options)`` is ``dag.test(**options)``, and returns the run. Airflow's database is one of
    this pytest session, whatever is configured: the test sees nothing of the usual one, and leaves nothing there.
    Further connections and variables come from the environment, ``AIRFLOW_CONN_...`` and ``AIRFLOW_VAR_...``. The DAG
    may lie anywhere, also in the test's own file.

    :param impala_sandbox: pytest's: the practice cluster.
    :param monkeypatch: pytest's.
    """
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    monkeypatch.setenv("AIRFLOW_CONN_IMPALA_LB_DEFAULT", impala_sandbox.connection)

    def run(dag: Any, **options: Any) -> DagRun:
        _make_known(dag)
        done: DagRun = dag.test(**options)
        return done

    with monkeypatch.context() as patch:
        patch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", _airflow_database)
        # Airflow 3 makes a second URL of the first, unless one is configured.
        patch.delenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC", raising=False)
        _open_database()
        yield run
    _open_database()


def _open_database() -> None:
    """The one that is configured now; Airflow has opened another when it was imported."""
    import airflow.settings

    settings: Any = airflow.settings
    settings.dispose_orm()
    settings.configure_vars()
    settings.configure_orm()


def _make_known(dag: Any) -> None:
    """Airflow 3 runs a DAG only if the database knows it, and looks only into the configured bundles for it."""
    try:
        from airflow.dag_processing.bundles.manager import DagBundlesManager
    except ImportError:
        return  # Airflow 2
    try:
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    except ImportError:  # before Airflow 3.2
        from airflow.models.dagbag import DagBag, sync_bag_to_db  # type: ignore[no-redef]
    manager = DagBundlesManager()  # type: ignore[no-untyped-call]
    manager.sync_bundles_to_db()
    bundle = next(iter(manager.get_all_dag_bundles()))
    bag = DagBag(dag_folder=os.devnull, bundle_path=Path(os.devnull))
    bag.bag_dag(dag)
    sync_bag_to_db(bag, bundle.name, bundle.version)

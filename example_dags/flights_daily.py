"""A daily batch on 336,776 flights: stage, clean, aggregate, publish.

The tables are staged on whatever coordinators have least to do; from there on each task sticks to the coordinator that
made what it reads, so that none reads metadata that have not arrived yet.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

LANDING = os.environ.get("FLIGHTS_LANDING", "/data/landing/nycflights13")

with DAG(
    "flights_daily",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    catchup=False,
    template_searchpath=str(Path(__file__).parent / "sql"),
    default_args={"variables": {"landing": LANDING}},
    doc_md=__doc__,
) as dag:
    prepare = ImpalaLBOperator(task_id="prepare", sql="prepare.sql")
    stage = {
        table: ImpalaLBOperator(task_id=f"stage_{table}", sql=f"stage_{table}.sql")
        for table in ("airlines", "airports", "planes", "weather", "flights")
    }
    clean = ImpalaLBOperator(task_id="clean", sql="clean.sql", stick_to=stage["flights"])
    aggregates = [
        ImpalaLBOperator(task_id=name, sql=f"{name}.sql", stick_to=clean)
        for name in ("by_carrier", "by_route", "by_weather")
    ]
    publish = ImpalaLBOperator(task_id="publish", sql="publish.sql", stick_to=aggregates[0])

    prepare >> list(stage.values()) >> clean
    aggregates >> publish

if __name__ == "__main__":
    dag.test()

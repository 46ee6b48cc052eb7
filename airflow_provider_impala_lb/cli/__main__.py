"""``python -m airflow_provider_impala_lb.cli``: the command ``impala-lb``."""

from airflow_provider_impala_lb.cli import program

raise SystemExit(program())

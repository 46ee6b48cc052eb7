"""Imported once by the process that workers are forked from: it takes seconds."""

import airflow_provider_impala_lb.operators.impala_lb  # noqa: F401

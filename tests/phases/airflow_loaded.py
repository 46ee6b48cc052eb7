"""Imported once by the process that workers are forked from: it takes seconds."""

import airflow.providers.common.compat.sdk
import airflow.providers.common.sql.hooks.handlers

import airflow_provider_impala_lb.hooks.impala_lb
import airflow_provider_impala_lb.impala.run
import airflow_provider_impala_lb.operators.impala_lb
import airflow_provider_impala_lb.triggers.script  # noqa: F401

"""An Airflow connection for the command line: outside a task, and with nothing on standard output."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError

if TYPE_CHECKING:
    from airflow_provider_impala_lb.balancer import Balancer


def balancer_of(conn_id: str) -> Balancer:
    """The balancer of a connection, wherever this host's Airflow keeps it: environment, secrets backends, database.

    :param conn_id: the connection's id.
    :raises ConfigError: there is none of this id, or it cannot be read, or is no configuration.
    """
    # Airflow 3 looks into its database for its own servers and commands only (`ensure_secrets_backend_loaded`); its
    # `airflow connections` says by this variable that it is one.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    # It warns of the underscore in our connections' type each time that it reads one, and of each place where there is
    # no connection. Airflow 3 takes levels from here, Airflow 2 from the logger.
    os.environ.setdefault("AIRFLOW__LOGGING__NAMESPACE_LEVELS", "airflow.models.connection=CRITICAL")
    stderr = sys.stderr
    # Airflow logs to standard output, where others read our answer.
    with contextlib.redirect_stdout(stderr), warnings.catch_warnings():
        with contextlib.redirect_stderr(io.StringIO()):  # its warnings of itself
            from airflow.providers.common.compat.sdk import AirflowNotFoundException

            from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook

        warnings.simplefilter("ignore")
        logging.basicConfig(level=logging.WARNING, format="impala-lb: %(message)s", stream=stderr, force=True)
        logging.getLogger("airflow").setLevel(logging.ERROR)
        logging.getLogger("airflow.models.connection").setLevel(logging.CRITICAL)
        try:
            return ImpalaLBHook(conn_id).balancer
        except ImpalaLBError:
            raise
        except AirflowNotFoundException:
            variable = f"AIRFLOW_CONN_{conn_id.upper()}"
            if os.environ.get(variable):
                raise ConfigError(
                    f"--conn-id {conn_id}: {variable} is set, and is neither a connection's JSON nor its URI (value "
                    "not shown; several hosts with ports are no URI: write JSON)"
                ) from None
            raise ConfigError(
                f"--conn-id {conn_id}: Airflow knows no connection of this id here. It was looked for in the "
                f"environment ({variable}), in the secrets backends, and in the database that this "
                "host's Airflow is configured for; `airflow connections list` shows those in the database"
            ) from None
        except Exception as error:  # its text may quote what the connection holds
            raise ConfigError(f"--conn-id {conn_id}: the connection cannot be read: {type(error).__name__}") from None

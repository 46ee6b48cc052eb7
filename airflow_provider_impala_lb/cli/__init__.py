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
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from airflow_provider_impala_lb import __version__
from airflow_provider_impala_lb.cli.common import failed
from airflow_provider_impala_lb.errors import ImpalaLBError

_COMMANDS = {
    "picks": ("pick", "release", "report", "probe"),
    "scripts": ("run", "split", "journal"),
    "cluster": ("status", "drain", "ready", "leftovers", "doctor"),
    "tools": ("sandbox", "demo"),
}
"""The files here that have commands, and theirs."""


def program() -> int:
    """The program ``impala-lb``: as :func:`main`, of a process that does nothing else.

    The garbage collector would look through what the imports make, and again at the end: a fifth of what a pick takes.

    :returns: as :func:`main`.
    """
    gc.set_threshold(200_000)  # long commands reach it
    code = main()
    gc.freeze()
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    :param arguments: of the command line, without the program's name; default: this process's.
    :returns: the exit code: 0; 1 if it failed, with the reason on standard error; 130 if it was interrupted.
    :raises SystemExit: the call is wrong (code 2), or asked for help (code 0).
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(_command_of(arguments)).parse_args(arguments)
    try:
        return int(options.command(options) or 0)
    except ImpalaLBError as error:
        return failed(error)
    except BrokenPipeError:  # `impala-lb status | head`
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130


def _command_of(arguments: Sequence[str]) -> str:
    """The first word that is neither an option nor an option's value; "" if there is none."""
    words = iter(arguments)
    for word in words:
        if word in ("--config", "--conn-id"):
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


def _formatter(prog: str) -> argparse.HelpFormatter:
    """argparse's own. It would import shutil, and ask for the terminal's width anew for each argument that is added."""
    try:
        width = int(os.environ.get("COLUMNS") or os.get_terminal_size(1).columns)
    except (OSError, ValueError):
        width = 80
    return argparse.HelpFormatter(prog, width=width - 2)


class _Parser(argparse.ArgumentParser):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": _formatter, **options})


def _parser(command: str) -> argparse.ArgumentParser:
    """The parser of the file that has this command; for any other word (a mistake, a call for help) of all files."""
    parser = _Parser(prog="impala-lb", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=__version__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--config", metavar="FILE", help="configuration file (default: $IMPALA_LB_CONFIG)")
    where.add_argument("--conn-id", metavar="ID", help="an Airflow connection instead of a file")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", prog="impala-lb")
    groups = [group for group, names in _COMMANDS.items() if command in names]
    for group in groups or _COMMANDS:
        import_module(f"{__name__}.{group}").add_commands(commands)
    return parser

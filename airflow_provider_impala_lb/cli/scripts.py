"""Commands about a script: ``run``, ``split``, ``journal``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from airflow_provider_impala_lb.cli.common import failed, open_balancer
from airflow_provider_impala_lb.errors import ConfigError, ScriptError, StatementFailed

if TYPE_CHECKING:
    from airflow_provider_impala_lb.cli.common import Commands
    from airflow_provider_impala_lb.impala.script.options import StatementDone
    from airflow_provider_impala_lb.impala.sql.splitter import Statement

_ANSWERS = ("ran", "not-run", "start-over")


def add_commands(commands: Commands) -> None:
    """Add the options of these commands to the parser.

    :param commands: what ``add_subparsers`` gave.
    """
    run = commands.add_parser("run", help="a script on one node, in one session")
    _add_script(run)
    run.add_argument("--session-key", metavar="K", help="scripts with the same key run on one node")
    run.add_argument("--output", metavar="FILE", help="the last query's rows: .csv, .csv.gz or .parquet")
    run.add_argument(
        "--resume", metavar="NAME", help="keep a journal of this name, and go on where an earlier run of it stopped"
    )
    run.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    run.set_defaults(command=_run)

    split = commands.add_parser("split", help="the statements of a script, as they would be sent")
    _add_script(split)
    split.add_argument("--json", action="store_true", help='[{"line","sql"}]')
    split.set_defaults(command=_split)

    journal = commands.add_parser("journal", help="how far resumable scripts are, and their authors' answers")
    journal.add_argument("key", metavar="KEY", nargs="?", help="dag/run/task[map], or the NAME of run --resume")
    journal.add_argument(
        "answer",
        nargs="?",
        choices=_ANSWERS,
        help="of a statement whose outcome nobody knows: it ran, or not; or let the script begin at statement 1",
    )
    journal.add_argument(
        "statement",
        metavar="STATEMENT",
        nargs="?",
        help="which one it is that ran or did not, as the question names it",
    )
    journal.add_argument("--json", action="store_true")
    journal.set_defaults(command=_journal)


def _add_script(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE", help="the script; - for standard input")
    command.add_argument("--var", metavar="NAME=VALUE", action="append", default=[], help="a value for ${var:NAME}")


def _script(options: argparse.Namespace) -> list[Statement]:
    from airflow_provider_impala_lb.impala.sql.splitter import is_blank, split

    variables = {}
    for given in options.var:
        name, equals, value = given.partition("=")
        if not equals or not name:
            raise ConfigError(f"--var {given}: must be NAME=VALUE")
        variables[name] = value
    try:
        text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{options.file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{options.file}: is not UTF-8: {error}") from error
    script = split(text, variables, name=options.file)
    if is_blank(text):
        raise ScriptError("holds no statement", line=1, name=options.file)
    return script


def _run(options: argparse.Namespace) -> int:
    import msgspec

    from airflow_provider_impala_lb.impala.journal.identity import RunIdentity
    from airflow_provider_impala_lb.impala.script.options import ProcessOptions, RunListener, RunOptions
    from airflow_provider_impala_lb.impala.script.plan import ScriptPlan, counted
    from airflow_provider_impala_lb.impala.script.run import ScriptRun
    from airflow_provider_impala_lb.stores.factory import open_journals

    script = _script(options)
    if not script:
        print(f"{options.file} holds nothing but comments: there is nothing to run", file=sys.stderr)
        return 0
    balancer = open_balancer(options)

    def show(done: StatementDone) -> None:
        rows = "" if done.rows is None else f"  {done.rows} rows"
        print(f"{done.number}/{len(script)}  line {done.line}  query {done.query_id}  {done.seconds:.2f} s{rows}")

    def end(*_: object) -> NoReturn:
        raise SystemExit(143)  # the session is closed on the way out, which cancels what runs

    signal.signal(signal.SIGTERM, end)
    run = ScriptRun(
        balancer.cluster,
        balancer.sessions,
        ScriptPlan.bind(
            script,
            None,
            RunOptions(session_key=options.session_key, resume=bool(options.resume), output=options.output),
        ),
        RunIdentity(
            owner=options.resume or f"impala-lb run {options.file}",
            tags={"file": Path(options.file).name},
            one_at_a_time=bool(options.resume),
            connection=options.conn_id or "",
        ),
        RunListener(
            on_session=None if options.json else lambda pick, session: print(f"{pick.node}  session {session.id}"),
            on_statement=None if options.json else show,
        ),
        ProcessOptions(journals=open_journals(balancer.config) if options.resume else None, command=balancer.command),
    )
    try:
        done = run.run()
    except StatementFailed as error:
        if options.json:
            facts = ("number", "total", "line", "node", "query_id", "outcome", "reason", "done")
            print(json.dumps({"error": str(error), **{fact: getattr(error, fact) for fact in facts}}))
        return failed(error)
    except KeyboardInterrupt:
        print("impala-lb: interrupted; what ran was cancelled", file=sys.stderr)
        return 130
    if options.json:
        keys = ("node", "why", "session", "statements", "seconds", "resumed", "output")
        print(json.dumps({key: value for key, value in msgspec.to_builtins(done).items() if key in keys}))
    else:
        print(f"{counted(len(done.statements))} on {done.node} in {done.seconds:.2f} s")
    return 0


def _split(options: argparse.Namespace) -> None:
    script = _script(options)
    if options.json:
        import msgspec

        print(msgspec.json.encode(script).decode())
        return
    for statement in script:
        last_line = statement.sql.rpartition("\n")[2]
        end = "\n;" if "--" in last_line else ";"  # not within a comment
        print(f"-- line {statement.line}\n{statement.sql}{end}")


def _journal(options: argparse.Namespace) -> int:
    import msgspec

    from airflow_provider_impala_lb.cli.tables import show_journals
    from airflow_provider_impala_lb.impala.journal.answers import answer
    from airflow_provider_impala_lb.impala.journal.document import decode
    from airflow_provider_impala_lb.stores.factory import open_journals

    balancer = open_balancer(options)
    journals = open_journals(balancer.config)
    if journals is None:
        raise ConfigError(f"{balancer.config.name}: has neither a lock_file nor a store, so no journal is kept")
    key = balancer.config.owner_of(options.key or "")
    if options.answer:
        print(answer(journals, key, options.answer, options.statement or ""))
        return 0
    records = {}
    for name in [key] if key else sorted(journals.keys()):
        document = journals.read(name)
        if document is not None:
            record = decode(document, journals.where)
            if record.outcomes:  # else it tells of sessions only: impala-lb leftovers
                records[name] = record
    if options.key and not records:
        print(f"impala-lb: {journals.where}: has no journal of {options.key}", file=sys.stderr)
        return 1
    if options.json:
        hidden = ("format", "script", "sessions", "digests", "text", "outcomes")
        shown = {key: msgspec.to_builtins(record) for key, record in records.items()}
        print(json.dumps([{"key": key, **{k: v for k, v in s.items() if k not in hidden}} for key, s in shown.items()]))
    else:
        show_journals(records)
    return 0

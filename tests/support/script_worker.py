"""A worker as a process of its own: ``python -m tests.support.script_worker JSON``. Its last line is its end.

Keys of the JSON: ``config``, ``owner``, ``script``; ``stop_at``: the process stops itself (SIGSTOP) at this moment,
``"open"`` before its first session is opened, ``"intent"`` before the intent of statement ``stop_number`` is written,
or ``"sent"`` after that, before the statement is sent; ``resume``; ``attempt``: its number;
``run``: when the DAG's run began; ``options`` for the run.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from airflow_provider_impala_lb.balancer import Balancer
from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.impala.hs2.operation import Operation
from airflow_provider_impala_lb.impala.hs2.page_proof import WITNESS_TAGS
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.scripts import script_run

ROOT = Path(__file__).parents[2]


def stop():
    """The whole process, and this thread at once: by `os.kill` it may run on until some other thread takes it."""
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def main(order):
    if order.get("stop_at") == "open":
        open_session = SessionFactory.open

        def stopping_first(sessions, *args, **options):
            stop()
            return open_session(sessions, *args, **options)

        SessionFactory.open = stopping_first
    if order.get("stop_at") == "sent":
        sent, send = [], Operation.send

        def stopping(operation, *args):
            if WITNESS_TAGS["for"] not in args[0]:
                sent.append(args)
            if len(sent) == order["stop_number"]:
                stop()
            return send(operation, *args)

        Operation.send = stopping
    if order.get("stop_at") == "intent":
        intend = Journal.intend

        def stopping_before(journal, number, *args):
            if number == order["stop_number"]:
                stop()
            intend(journal, number, *args)

        Journal.intend = stopping_before
    options = {"one_at_a_time": True, **order.get("options", {})}
    balancer = Balancer.from_config(order["config"])
    if "attempt" in order:
        options["attempt"] = Attempt(order["attempt"], time.time(), run=order.get("run", 0.0))
    resume = bool(order.get("resume"))
    options |= {"resume": resume, "journals": open_journals(balancer.config), "outcomes": resume}
    run = script_run(balancer, split(order["script"]), owner=order["owner"], **options)
    try:
        done = run.run()
        end = {"node": done.node, "statements": len(done.statements)}
    except Exception as error:
        end = {"error": type(error).__name__, "text": str(error), "outcome": getattr(error, "outcome", None)}
    print(json.dumps(end), flush=True)


@contextmanager
def worker(**order):
    """The process; it is killed at the end, whatever it does."""
    command = [sys.executable, "-m", "tests.support.script_worker", json.dumps(order)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def is_stopped(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def end_of(process, seconds=30):
    out, _ = process.communicate(timeout=seconds)
    return json.loads(out.strip().splitlines()[-1])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

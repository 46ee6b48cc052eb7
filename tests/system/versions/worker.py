"""A worker of any version, as a process of its own: ``PYTHON worker.py``, run by its path, so that the package is that
of its interpreter. Reads orders from its standard input, a line of JSON each, and answers with another one.

It uses only what people may use and what Airflow does (README.md; a trigger by the path of its class): so it works with
every version from the one that fixed the formats on.
"""

import asyncio
import importlib
import json
import logging
import os
import sys
import time
from datetime import datetime, timezone
from types import SimpleNamespace

import airflow_provider_impala_lb
from airflow_provider_impala_lb import Balancer

balancers, held = {}, {}


def balancer(config):
    key = json.dumps(config, sort_keys=True)
    if key not in balancers:
        balancers[key] = Balancer.from_config(config)
    return balancers[key]


def note(log, text):
    with open(log, "a") as file:  # a short line is written whole (O_APPEND)
        file.write(text + "\n")


def package():
    return airflow_provider_impala_lb.__file__


def picks(config, count):
    return [balancer(config).get_host() for _ in range(count)]


def lease_many(config, count, log, name):
    """Begin and end leases; what the log says never shows more of them than there are."""
    for _ in range(count):
        with balancer(config).acquire(owner=name):
            note(log, "+")
            time.sleep(0.2)  # longer than it takes to begin one
            note(log, "-")


def hold(config, owner, log=None):
    pick = balancer(config).acquire(owner=owner)
    held[owner] = pick.__enter__()
    if log:
        note(log, owner)
    return pick.node


def end(owner):
    held.pop(owner).__exit__(None, None, None)


def wait_in_queue(config, owner, log):
    hold(config, owner, log)
    end(owner)


def keys(config, names):
    found = {}
    for name in names:
        with balancer(config).acquire(owner=name, session_key=name) as pick:
            found[name] = pick.node
    return found


def status(config):
    return balancer(config).status()


def drain(config, node):
    balancer(config).drain(node)


def ready(config, node):
    balancer(config).ready(node)


class Ti:
    """The little of a task instance that the operator uses."""

    dag_id, task_id, run_id, map_index, max_tries = "d", "t", "r", -1, 1
    task = None

    def __init__(self, attempt):
        self.try_number, self.xcoms = attempt, {}
        self.start_date = datetime(2026, 1, 1, attempt, tzinfo=timezone.utc)

    def xcom_push(self, key, value):
        self.xcoms[key] = value

    def xcom_pull(self, task_ids, key="return_value", map_indexes=None):
        return None


def load():
    importlib.import_module("airflow_provider_impala_lb.operators.impala_lb")


def execute(sql, attempt=1, method=None, event=None, **options):
    """An attempt of a task; with ``method``, it comes back from its trigger."""
    from airflow.providers.common.compat.sdk import DAG, TaskDeferred

    from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

    with DAG("d", start_date=datetime(2026, 1, 1), schedule=None):
        task = ImpalaLBOperator(task_id="t", conn_id="versions", sql=sql, **options)
    ti = Ti(attempt)
    dag_run = SimpleNamespace(start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), clear_number=0)
    context = {"ti": ti, "dag_run": dag_run}
    try:
        result = getattr(task, method)(context, event) if method else task.execute(context)
    except TaskDeferred as deferred:
        path, arguments = deferred.trigger.serialize()
        return {"path": path, "arguments": arguments, "method": deferred.method_name}
    return {"result": result, "xcoms": ti.xcoms}


def trigger(path, arguments, stop=None):
    """What Airflow's triggerer does with it. Returns its event; None if it was stopped.

    :param stop: it ends in order once there is a file at this path.
    """
    module, _, name = path.rpartition(".")
    running = getattr(importlib.import_module(module), name)(**arguments)

    async def event():
        try:
            return (await anext(aiter(running.run()))).payload
        finally:
            await running.cleanup()

    async def watched():
        task = asyncio.create_task(event())
        while not task.done():
            if stop is not None and os.path.exists(stop):
                task.cancel()
            await asyncio.wait([task], timeout=0.05)
        return None if task.cancelled() else task.result()

    return asyncio.run(watched())


def main():
    orders, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print
    logging.basicConfig(level=logging.WARNING)
    for line in orders:
        order = json.loads(line)
        try:
            answer = {"result": globals()[order.pop("do")](**order)}
        except Exception as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

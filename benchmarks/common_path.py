"""How much of the package a reader meets on the common path: one script of three statements, one healthy node.

Runs ``ImpalaLBOperator(...).execute(...)`` on the practice cluster, in a process of its own as a task has one, with a
lock file that another such process has made before, and traces it with all threads it starts. Prints the package's
files in the order in which they are met, and of each how many of its lines and functions ran. What runs only because a
module is imported does not count.

    python benchmarks/common_path.py [--functions]
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
from datetime import datetime, timezone
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

SCRIPT = """
CREATE TABLE IF NOT EXISTS common_path (a INT);
INSERT INTO common_path VALUES (1);
SELECT count(*) FROM common_path
"""


class Trace:
    """What of a folder's files runs, in all threads, between entry and exit.

    :param folder: the files; what lies elsewhere is passed over
    :ivar lines: the numbers of the lines that ran, by file, in the order in which the files are met
    :ivar functions: the names of the functions that ran, by file, in the order in which they are met
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = f"{folder}{os.sep}"
        self.lines: dict[str, set[int]] = {}
        self.functions: dict[str, dict[str, None]] = {}

    def __enter__(self) -> Trace:
        threading.settrace(self._called)
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(self._folder) or not code.co_flags & inspect.CO_OPTIMIZED:
            return None  # a module's or a class's own statements are not optimized
        if _is_importing(frame):
            return None
        path = code.co_filename.removeprefix(self._folder)
        lines = self.lines.setdefault(path, set())
        functions = self.functions.setdefault(path, {})
        if not code.co_name.startswith("<"):
            functions[_name_of(code)] = None

        def ran(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                lines.add(frame.f_lineno)
            return ran

        return ran


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _name_of(code: CodeType) -> str:
    return getattr(code, "co_qualname", code.co_name)  # since Python 3.11


class TaskInstance:
    """The little of one that the operator uses."""

    dag_id, task_id, run_id, try_number, map_index, max_tries = "d", "t", "r", 1, -1, 0
    start_date = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def xcom_push(self, key: str, value: object) -> None:
        """Forgets it.

        :param key: its name
        :param value: what a later task would read
        """

    def xcom_pull(self, **_: object) -> None:
        """Nothing is there."""


def run_task() -> Trace:
    """Run the script as a task does; the connection ``common_path`` is in the environment."""
    import airflow_provider_impala_lb
    from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

    task = ImpalaLBOperator(task_id="t", sql=SCRIPT, conn_id="common_path")
    context: Any = {"ti": TaskInstance(), "dag_run": SimpleNamespace(start_date=TaskInstance.start_date)}
    with Trace(pathlib.Path(airflow_provider_impala_lb.__file__).parent) as trace:
        task.execute(context)
    return trace


def show(found: dict[str, Any], folder: pathlib.Path, *, functions: bool) -> None:
    """Print the table.

    :param found: by file, its ``lines`` and ``functions``
    :param folder: of the package
    :param functions: whether to list their names, too
    """
    print(f"{'':>3} {'file':<44} {'lines':>5} {'of':>5} {'functions':>9}")
    total = 0
    for number, (path, each) in enumerate(found.items(), 1):
        length = (folder / path).read_text(encoding="utf-8").count("\n")
        total += length
        print(f"{number:>3} {path:<44} {each['lines']:>5} {length:>5} {len(each['functions']):>9}")
        if functions:
            print(*(f"{'':>8}{name}" for name in each["functions"]), sep="\n")
    lines = sum(each["lines"] for each in found.values())
    names = sum(len(each["functions"]) for each in found.values())
    print(f"{len(found)} files ({total} lines), {names} functions, {lines} lines that ran")


def main() -> None:
    """Start the cluster, run the task twice, show the second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", action="store_true", help="list the functions, too")
    parser.add_argument("--task", metavar="FILE", help=argparse.SUPPRESS)  # in the process of the task
    arguments = parser.parse_args()
    if arguments.task:
        trace = run_task()
        found = {
            path: {"lines": len(lines), "functions": list(trace.functions[path])} for path, lines in trace.lines.items()
        }
        pathlib.Path(arguments.task).write_text(json.dumps(found))
        return

    import airflow_provider_impala_lb
    from airflow_provider_impala_lb.sandbox import Sandbox

    with Sandbox(nodes=1, lag=0) as cluster, tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_COMMON_PATH": cluster.connection,
        }
        result = pathlib.Path(home, "found.json")
        for _ in range(2):
            command = [sys.executable, __file__, "--task", str(result)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stdout + done.stderr)
        found = json.loads(result.read_text())
    show(found, pathlib.Path(airflow_provider_impala_lb.__file__).parent, functions=arguments.functions)


if __name__ == "__main__":
    main()

"""Airflow's own processes, as in production: its database, API server (Airflow 3), scheduler with workers, triggerers.

Each has a session (setsid) of its own, by which whatever it has started is found again when it is to end.
"""

import contextlib
import json
import os
import pathlib
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request

import airflow

from tests.support.servers import free_port

MAJOR = int(airflow.__version__.partition(".")[0])


class Daemon:
    """``airflow COMMAND``; its output goes to a file of its own."""

    def __init__(self, directory, env, *command):
        self.name = " ".join(command[:1])
        self.log = directory / f"{self.name}-{time.time_ns()}.log"
        with open(self.log, "w") as output:
            # The kernel kills it should this process be killed.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "airflow", *command],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self):
        assert self._process.poll() is None, f"{self.name} has ended with {self._process.returncode}"

    def kill(self):
        """SIGKILL it, and all it has started: workers make groups of their own, but stay in its session."""
        while True:
            left = _processes_of_session(self._process.pid)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.poll()
            if not left:
                break
            time.sleep(0.02)
        self._process.wait()

    def tail(self, size=6000):
        return f"--- {self.log.name}\n{self.log.read_text(errors='replace')[-size:]}"


def _processes_of_session(session):
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(sid) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


class Airflow:
    """One Airflow on 127.0.0.1, with a database of its own. A context manager.

    :param home: an empty directory.
    :param dags: a file's name -> its text.
    :param env: for all its processes.
    """

    def __init__(self, home, dags, env):
        self.home, self.daemons, self._token = home, [], None
        (home / "dags").mkdir()
        for name, text in dags.items():
            (home / "dags" / name).write_text(text)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
        self._env = inherited | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "AIRFLOW_HOME": str(home),
            # Several processes write to one file: they wait for each other.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK": "1",  # Airflow 2, of SQLite
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__FERNET_KEY": "Tm90IGEgc2VjcmV0OiBvbmx5IGZvciBhIHRlc3Qgb24=",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(),
            # Another triggerer takes over from one that has not been heard of for so long.
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "6",
            **env,
        }
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)

    def __enter__(self):
        try:
            self._once("db", "migrate")
            if MAJOR >= 3:
                self.start("api-server", "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1")
            self._once("dags", "reserialize")  # what the dag-processor does all the time
            self.start("scheduler", "--skip-serve-logs")
            self.start_triggerer()
            if MAJOR >= 3:
                self.wait(self._is_up, "the API server answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for daemon in self.daemons:
            daemon.kill()

    def _once(self, *command):
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *command], env=self._env, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"airflow {' '.join(command)}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"

    def start(self, *command):
        self.daemons.append(Daemon(self.home, self._env, *command))
        return self.daemons[-1]

    def start_triggerer(self):
        return self.start("triggerer", "--skip-serve-logs")

    def stop(self, daemon):
        """As a host that loses its power."""
        self.daemons.remove(daemon)
        daemon.kill()

    def triggerer(self):
        return next(daemon for daemon in self.daemons if daemon.name == "triggerer")

    def _is_up(self):
        try:
            return bool(self.call("GET", "/api/v2/version"))
        except OSError:
            return False

    def call(self, method, path, body=None):
        """The REST API, as a user's browser calls it.

        :returns: the answer.
        :raises AssertionError: it says no.
        """
        if self._token is None:
            with urllib.request.urlopen(f"{self.url}/auth/token", timeout=60) as answer:
                self._token = json.load(answer)["access_token"]
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error}: {error.read().decode()[:1000]}") from None

    def wait(self, check, what, seconds=120.0):
        """Wait until ``check`` returns something, and return that.

        :raises AssertionError: it took too long; with all logs.
        """
        until = time.monotonic() + seconds
        while not (found := check()):
            for daemon in self.daemons:
                try:
                    daemon.check()
                except AssertionError as error:
                    raise AssertionError(f"{error}\n{self.story()}") from None
            assert time.monotonic() < until, f"not within {seconds:g} s: {what}\n{self.story()}"
            time.sleep(0.2)
        return found

    def query(self, sql, *parameters):
        """Rows of Airflow's database, of whichever version."""
        with contextlib.closing(
            sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True, timeout=60)
        ) as database:
            return database.execute(sql, parameters).fetchall()

    def story(self):
        """What the processes and the tasks said last."""
        tasks = sorted((self.home / "logs").rglob("attempt=*"))
        said = [f"--- {path.relative_to(self.home)}\n{path.read_text(errors='replace')[-4000:]}" for path in tasks]
        return "\n".join([*said, *(daemon.tail() for daemon in self.daemons)])

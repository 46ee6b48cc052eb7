"""The wheel, installed as users do into environments of their own, with what each extra brings and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.components import lacking

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).parent.parent
README = CHECKOUT / "README.md"


@pytest.fixture(scope="module")
def uv():
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return found or lacking("uv is not installed (pip install uv): what users install is NOT tested")


@pytest.fixture(scope="module")
def wheel(uv, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run([uv, "build", "--quiet", "--wheel", "--out-dir", folder, CHECKOUT])
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def install(uv, wheel, tmp_path_factory):
    """``install("sandbox", "pytest")``: an environment with the wheel, its extra, and a further package."""

    def make(extra="", *packages, python=sys.executable, constraints=True):
        import airflow

        folder = tmp_path_factory.mktemp("installed") / "venv"
        run([uv, "venv", "--quiet", "--offline", "--python", python, folder])
        command = [uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python", "--compile-bytecode"]
        if constraints:
            packages = (f"apache-airflow=={airflow.__version__}", *packages)
            command += ["--constraint", CHECKOUT / ".ci" / f"constraints-{airflow.__version__}.txt"]
        run([*command, f"{wheel}[{extra}]" if extra else wheel, *packages])
        return folder / "bin"

    return make


@pytest.fixture(scope="module")
def bare(install):
    return install()


@pytest.fixture(scope="module")
def sandboxed(install):
    return install("sandbox", "pytest")


@pytest.fixture
def environment(tmp_path):
    """Nothing of the tests' own environment, and a home without anything."""
    home = tmp_path / "home"
    home.mkdir()
    return {"HOME": str(home), "PATH": os.environ["PATH"]}


def run(command, check=True, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def config(tmp_path, **keys):
    path = tmp_path / "impala_lb.yml"
    path.write_text(json.dumps({"nodes": ["127.0.0.1:9", "127.0.0.2:9"], **keys}))
    return path


def picks(bare, tmp_path, environment):
    path = config(tmp_path, lock_file=str(tmp_path / "lock"), policy="round_robin")
    return [run([bare / "impala-lb", "--config", path, "pick"], env=environment).stdout.strip() for _ in range(2)]


def test_the_command_line_works_without_any_extra(bare, tmp_path, environment):
    assert "sandbox" in run([bare / "impala-lb", "--help"], env=environment).stdout
    assert picks(bare, tmp_path, environment) == ["127.0.0.1:9", "127.0.0.2:9"]


def interpreter(version):
    """Of the system's, or one that pyenv has built: its own commands run only the versions that are switched on."""
    built = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return built[-1] if built else shutil.which(f"python{version}")


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_it_installs_on_every_python_that_it_names(install, tmp_path, environment, version):
    python = interpreter(version) or pytest.skip(f"Python {version} is not installed: it is NOT tested")
    bin = install("sandbox", python=python, constraints=False)
    assert picks(bin, tmp_path, environment) == ["127.0.0.1:9", "127.0.0.2:9"]
    assert statement_on_a_cluster(bin, tmp_path, environment) == "1/1"


@pytest.mark.parametrize(
    ("extra", "command", "keys"),
    [
        ("redis", ["pick"], {"store": "redis://127.0.0.1:9"}),
        ("parquet", ["run", "x.sql", "--output", "rows.parquet"], {}),
        ("sandbox", ["sandbox"], {}),
        ("demo", ["demo"], {}),
    ],
)
def test_an_error_names_the_extra_that_is_missing(bare, tmp_path, environment, extra, command, keys):
    (tmp_path / "x.sql").write_text("SELECT 1")
    path = config(tmp_path, **(keys or {"lock_file": str(tmp_path / "lock")}))
    done = run([bare / "impala-lb", "--config", path, *command], check=False, env=environment, cwd=tmp_path, timeout=60)
    assert done.returncode != 0
    assert f"pip install 'airflow-provider-impala-lb[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def statement_on_a_cluster(bin, tmp_path, environment):
    """What ``impala-lb run`` says first of a script of one statement, on a cluster of ``impala-lb sandbox``."""
    (tmp_path / "x.sql").write_text("SELECT upper('a')")
    command = [str(bin / "impala-lb"), "sandbox", "--nodes", "2"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as sandbox:
        try:
            cluster = json.loads(sandbox.stdout.readline())
            command = [bin / "impala-lb", "--config", cluster["config"], "run", tmp_path / "x.sql"]
            done = run(command, env=environment)
        finally:
            sandbox.terminate()
    assert sandbox.returncode == 0
    return re.search(r"^\d/\d", done.stdout, re.MULTILINE)[0]


def test_the_extra_sandbox_is_enough_for_a_cluster(sandboxed, tmp_path, environment):
    assert statement_on_a_cluster(sandboxed, tmp_path, environment) == "1/1"


DAG = """
from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

with DAG("mine", start_date=datetime(2026, 1, 1), schedule=None) as my_dag:
    load = ImpalaLBOperator(task_id="load", sql="load.sql")
    report = ImpalaLBOperator(task_id="report", sql="SELECT count(*) FROM t", stick_to=load)
"""


def test_the_test_in_the_readme_works_as_it_stands(sandboxed, tmp_path, environment):
    """In a project of nothing but a DAG and that test; nothing of Airflow's was set up."""
    (snippet,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
        if "def test_my_dag(impala_sandbox" in block
    ]
    project = tmp_path / "project"
    project.mkdir()
    (project / "my_dag.py").write_text(DAG)
    (project / "load.sql").write_text("CREATE TABLE t (a INT); INSERT INTO t VALUES (1), (2)")
    (project / "test_my_dag.py").write_text(snippet)
    done = run([sandboxed / "python", "-m", "pytest", "-q"], check=False, env=environment, cwd=project)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert not list(Path(environment["HOME"]).rglob("airflow.db")), "the user's own database was made, or used"
    # And it is a test: with a DAG that fails it does not pass.
    (project / "load.sql").write_text("CREATE TABLE t (a INT); INSERT INTO nowhere VALUES (1)")
    done = run([sandboxed / "python", "-m", "pytest", "-q"], check=False, env=environment, cwd=project)
    assert "1 failed" in done.stdout, done.stdout + done.stderr

"""Airflow parses DAG files all the time: what the operator's import pulls in, each of them pays."""

import subprocess
import sys

import pytest

HEAVY = ("impala", "thrift", "duckdb", "redis", "sqlglot", "httpx", "rich", "yaml")


def heavy_after(statement):
    code = f"import sys; {statement}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


def test_the_operator_pulls_in_nothing_heavy_that_airflow_does_not():
    ours = heavy_after("from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator")
    theirs = heavy_after("from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator")
    assert ours <= theirs
    assert not ours & {"impala", "thrift", "duckdb", "redis", "sqlglot"}


@pytest.mark.parametrize(
    "statement",
    [
        "from airflow_provider_impala_lb import Balancer",
        "import airflow_provider_impala_lb.cli",
        "from airflow_provider_impala_lb.sandbox import Sandbox",
        "import airflow_provider_impala_lb.sandbox.pytest_plugin",
    ],
)
def test_what_is_used_without_airflow_pulls_in_nothing_heavy_at_all(statement):
    assert heavy_after(statement) == set()
    assert heavy_after(statement + "; assert 'airflow' not in sys.modules") == set()


def test_a_pick_imports_what_a_pick_needs(tmp_path):
    """A real process: the program, with a lock file. Each of these costs more than the pick itself."""
    config = tmp_path / "lb.yml"
    config.write_text(f"lock_file: {tmp_path}/node_in_use.tmp\nnodes: [a, b]\n")
    command = [sys.executable, "-X", "importtime", "-m", "airflow_provider_impala_lb.cli", "--config", config, "pick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "a:21050\n"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported & {*HEAVY, "airflow", "pyarrow", "asyncio", "ssl", "hashlib"} == {"yaml"}
    ours = {name.removeprefix("airflow_provider_impala_lb.") for name in imported}
    assert not {name for name in ours if name.startswith(("impala.", "stores.redis", "stores.journals", "doctor"))} - {
        "impala.hs2",
        "impala.hs2.session_factory",
    }

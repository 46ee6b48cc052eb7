"""``run --resume`` and ``--output``, and what ``journal`` shows and takes down."""

import json

import pytest

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.command_line import lb


@pytest.fixture(scope="module")
def cluster():
    with Sandbox(nodes=2, lag=0) as cluster:
        yield cluster


def executed(cluster, word):
    return [e["sql"] for node in cluster.nodes for e in node.journal() if word in e.get("sql", "")]


def test_a_script_goes_on_where_it_stopped(cluster, tmp_path):
    script = tmp_path / "x.sql"
    script.write_text("CREATE TABLE r (n INT);\nINSERT INTO r VALUES (1);\nINSERT INTO later SELECT n FROM r;\n")
    run = ["run", script, "--resume", "nightly", "--json"]
    failed = lb(*run, config=cluster.config_file)
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["number"] == 3

    (told,) = json.loads(lb("journal", "--json", config=cluster.config_file).stdout)
    assert (told["key"], told["done"], told["total"]) == ("nightly", 2, 3)
    assert not {"sealed", "script"} & set(told)
    table = lb("journal", config=cluster.config_file).stdout
    assert "nightly" in table and "2 of 3" in table

    other = tmp_path / "other.sql"
    other.write_text("CREATE TABLE later (n INT)")
    assert lb("run", other, config=cluster.config_file).returncode == 0
    done = lb(*run, config=cluster.config_file)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed"] == 2
    assert len(executed(cluster, "CREATE TABLE r ")) == len(executed(cluster, "INSERT INTO r ")) == 1
    (told,) = json.loads(lb("journal", "nightly", "--json", config=cluster.config_file).stdout)
    assert told["ended"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["journal", "no_such"], "has no journal of no_such"),
        (["journal", "no_such", "ran"], "has no journal of no_such"),
        (["journal", "nightly", "ran"], "no statement of it is in doubt"),
    ],
)
def test_a_wrong_answer_is_one_clear_line(cluster, tmp_path, arguments, says):
    script = tmp_path / "y.sql"
    script.write_text("SELECT 1")
    lb("run", script, "--resume", "nightly", config=cluster.config_file)
    answer = lb(*arguments, config=cluster.config_file)
    assert answer.returncode == 1
    assert says in answer.stderr and "Traceback" not in answer.stderr


def test_start_over(cluster, tmp_path):
    script = tmp_path / "z.sql"
    script.write_text("CREATE TABLE IF NOT EXISTS z (n INT); INSERT INTO z VALUES (1); SELEC")
    lb("run", script, "--resume", "z", config=cluster.config_file)
    assert "begins at statement 1" in lb("journal", "z", "start-over", config=cluster.config_file).stdout
    lb("run", script, "--resume", "z", config=cluster.config_file)
    assert len(executed(cluster, "INSERT INTO z ")) == 2


def test_rows_go_to_a_file(cluster, tmp_path):
    script, rows = tmp_path / "s.sql", tmp_path / "rows.csv"
    script.write_text("SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, NULL ORDER BY a; SET MEM_LIMIT=1g")
    done = lb("run", script, "--output", rows, "--json", config=cluster.config_file)
    assert json.loads(done.stdout)["output"]["rows"] == 2
    assert rows.read_text() == "a,b\n1,x\n2,\n"


@pytest.mark.parametrize(
    ("name", "sql", "says"),
    [("rows.xls", "SELECT 1", ".csv, .csv.gz or .parquet"), ("rows.csv", "SET MEM_LIMIT=1g", "has no query")],
)
def test_an_output_that_cannot_be_is_known_before_anything_runs(cluster, tmp_path, name, sql, says):
    script = tmp_path / "s.sql"
    script.write_text(f"CREATE TABLE never_made (n INT); {sql}")
    failed = lb("run", script, "--output", tmp_path / name, config=cluster.config_file)
    assert failed.returncode == 1
    assert says in failed.stderr
    assert not executed(cluster, "never_made")


def test_what_is_not_known_of_lost_attempts_can_be_said_to_have_ended(cluster):
    """Their journal was lost, so the next attempt looks for what they may have left, until somebody has."""
    lb("journal", "w", "start-over", config=cluster.config_file)
    assert lb("leftovers", config=cluster.config_file).stdout == "w  w: nothing is kept of earlier attempts\n"
    assert lb("leftovers", "--forget", "w", config=cluster.config_file).returncode == 0
    assert lb("leftovers", config=cluster.config_file).stdout == ""

"""What the command line shows is data, and never read as anything else."""

import os
import subprocess

import pytest
import yaml

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.state.load_report import parse_sample
from tests.support.command_line import COMMAND

KEYS = [
    "[/x]",
    "[bold]b[/bold]",
    "[link=http://evil]x[/link]",
    ":smile:",
    "[red",
    "a\\[b",
    "esc\x1b[31m\x07",
    "[fd00::1]",
]


@pytest.fixture
def config(tmp_path):
    config = {
        "name": "[/warehouse] [red]",
        "nodes": ["[fd00::1]", "[fd00::2]:21051", "[1:2::3]:5"],
        "lock_file": str(tmp_path / "lock"),
        "load": {},
        "policy": "round_robin",
    }
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def lb(config, *arguments):
    command = [*COMMAND, "--config", str(config), *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_status_shows_every_text_as_it_is(config):
    balancer = Balancer.from_config(str(config))
    held = [balancer.acquire(owner=f"owner {key}", session_key=key) for key in KEYS]
    balancer.drain("[fd00::1]")
    done = lb(config, "status")
    assert done.returncode == 0
    for text in ("[fd00::1]:21050", "[fd00::2]:21051", "[1:2::3]:5", "[/warehouse] [red]"):
        assert text in done.stdout
    for key in KEYS:
        shown = key.replace("\x1b", "\\x1b").replace("\x07", "\\x07")
        assert f" {shown} " in done.stdout and f"owner {shown} " in done.stdout
    assert "\x1b" not in done.stdout and "\x07" not in done.stdout
    for pick in held:
        pick.release()


def test_what_nodes_and_journals_say_is_shown_as_it_is(config):
    from airflow_provider_impala_lb.cli.tables import show

    Balancer.from_config(str(config)).report("[fd00::1]", parse_sample('{"shares": {"cpu": 0.5}}'))
    assert "[fd00::1]:21050" in lb(config, "status").stdout
    # the other tables go through the same function
    show("[/title]", ("[/column]",), [["[/cell]"], [None], [3]])


def test_an_error_does_not_command_the_terminal(config):
    done = lb(config, "drain", "nobody\x1b[2J")
    assert done.returncode == 1
    assert "\x1b" not in done.stderr and "[fd00::1]:21050, [fd00::2]:21051" in done.stderr

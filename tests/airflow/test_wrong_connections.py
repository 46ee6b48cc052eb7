"""A password in each place where a connection can be wrong: whatever is said of it, the password is not."""

import json
import os
import subprocess
import sys
import traceback

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_impala_lb.errors import ImpalaLBError
from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook
from tests.support.marked_secrets import MARK, leaks

URL = f"redis://usr:{MARK}@127.0.0.1"
SECTION = f"password={MARK}"
EXTRAS = [
    *({key: value} for key in ("store", "mirror") for value in (f"postgres://u:{MARK}@h", MARK, [URL], {"url": URL})),
    *(
        {key: value}
        for key in ("stor", "password", "ldap_password", "jwt", "http_path")
        for value in (MARK, {"x": URL})
    ),
    *(
        {key: value}
        for key in ("seal_key", "config_file", "deployment", "web_conn_id")
        for value in ([URL], {"x": URL})
    ),
    *({key: URL} for key in ("policy", "port", "node_count", "lock_file", "max_wait", "max_leases", "nodes", "load")),
    *({key: value} for key in ("session", "load", "nodes") for value in (SECTION, [SECTION], {"password": MARK}, 7)),
    {"session": f"{{'password': '{MARK}'}}"},
    {"session": {"query_options": URL}},
    {"session": {"use_ssl": URL}},
    {"session": {"password_file": MARK}},
    {"load": {"web_password": MARK}},
    {"load": {"web_auth": URL}},
    {"use_ssl": URL},
    {"timeout": URL},
    {"config_file": "/nowhere/x.yml", "password": MARK},
    {"store": f"redis://:{MARK}@h", "store_conn_id": "other"},
    {"store_conn_id": "other"},
    {"web_conn_id": "other"},
    {"web_conn_id": "other", "load": [SECTION]},
    {"store_conn_id": URL},
    {"web_conn_id": URL, "load": {}},
]
OTHERS = [
    {"conn_type": "http", "host": "h", "password": MARK},
    {"conn_type": "redis", "password": MARK},
    {"conn_type": "redis", "host": URL, "password": MARK},
    {"conn_type": "redis", "host": "h", "password": MARK, "port": 99999},
    {"conn_type": "redis", "host": "h", "password": MARK, "extra": {"ssl": URL}},
    {"conn_type": "redis", "host": "h", "password": MARK, "extra": {"ssl": {"password": MARK}}},
    {"conn_type": "redis", "host": "h", "password": MARK, "extra": {"db": URL}},
    {"conn_type": "redis", "host": "h", "password": MARK, "extra": {"ssl_ca_certs": "/x"}},
    {"conn_type": "redis", "host": "h", "password": MARK, "extra": f"no JSON {MARK}"},
    {"conn_type": "redis", "host": "h", "password": MARK, "extra": f'["{MARK}"]'},
]


def connections():
    """The environment's text of each wrong connection, and that of the other one."""
    for conn_type in ("impala_lb", "impala"):
        for extra in EXTRAS:
            fields = {"conn_type": conn_type, "host": "h", "password": MARK, "extra": extra}
            if "other" in extra.values():
                yield from ((json.dumps(fields), json.dumps(other)) for other in OTHERS)
            else:
                yield json.dumps(fields), ""
        for host in (f"u:{MARK}@h", URL, f"a,u:{MARK}@h:1", f"{MARK}:x"):
            yield json.dumps({"conn_type": conn_type, "host": host, "extra": {"lock_file": "/l"}}), ""
        for extra in (f"no JSON {MARK}", f'["{MARK}"]', f'{{"store": "{MARK}', f'"{MARK}"'):
            yield json.dumps({"conn_type": conn_type, "host": "h", "extra": extra}), ""
    yield f'{{"conn_type": "impala_lb", "password": "{MARK}', ""
    yield f"impala-lb://u:{MARK}@h1:1,h2:2/db", ""
    yield f"impala-lb://u:{MARK}@h:port/db", ""
    yield f"impala-lb://u:{MARK}@h/?session={MARK}", ""
    yield f"impala-lb://u:{MARK}@h/?store=redis%3A%2F%2F%3A{MARK}%40h%2Fx", ""
    yield f"{MARK}", ""


@pytest.fixture
def environment(monkeypatch):
    def define(conn, other):
        monkeypatch.setenv("AIRFLOW_CONN_WH", conn)
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", other or '{"conn_type": "redis", "host": "h"}')

    return define


def test_no_error_of_a_connection_shows_a_password(environment, logged, capsys):
    found, refused = {}, 0
    for conn, other in connections():
        environment(conn, other)
        said = ""
        try:
            _ = ImpalaLBHook("wh").balancer
        except (ImpalaLBError, AirflowNotFoundException) as error:
            said = "".join(traceback.format_exception(error)) + repr(error.args)
            refused += 1
        if lines := leaks(said + logged.text + "".join(capsys.readouterr())):
            found[conn + other] = lines
        logged.text = ""
    assert found == {}
    assert refused > 100


@pytest.mark.slow
def test_no_command_on_a_connection_shows_a_password(tmp_path):
    """In one process that runs them one after another, since Airflow's import takes seconds."""
    (tmp_path / "x.sql").write_text("SELECT 1")
    (tmp_path / "cases.json").write_text(json.dumps(list(connections())))
    program = f"""
import json, os, sys, traceback
from airflow_provider_impala_lb.cli import main
for number, (conn, other) in enumerate(json.load(open({str(tmp_path / "cases.json")!r}))):
    os.environ["AIRFLOW_CONN_WH"] = conn
    os.environ["AIRFLOW_CONN_OTHER"] = other or '{{"conn_type": "redis", "host": "h"}}'
    for command in (["status", "--json"], ["pick"], ["doctor", "--json"], ["run", {str(tmp_path / "x.sql")!r}]):
        try:
            code = main(["--conn-id", "wh", *command])
        except BaseException:
            traceback.print_exc()
            code = "raised"
        print("case", number, command[0], code, flush=True)
"""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_CONN_", "IMPALA_LB_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        env=env,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert not leaks(done.stdout)
    assert " raised\n" not in done.stdout  # Airflow itself logs a traceback of an extra that is not JSON
    assert done.stdout.count(" pick 1") > 100


@pytest.mark.parametrize("extra", ["no JSON", '{"lock_file": ', '["lock_file"]', '"lock_file"'])
def test_an_extra_that_is_no_object_is_not_an_empty_one(environment, extra):
    environment(json.dumps({"conn_type": "impala_lb", "host": "h", "extra": extra}), "")
    with pytest.raises(ImpalaLBError, match="connection wh: extra: is (not JSON|JSON, but no object)"):
        _ = ImpalaLBHook("wh").balancer

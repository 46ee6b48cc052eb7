"""A password in each place where a configuration can be wrong: whatever is said of it, the password is not."""

import traceback

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.cli import main
from airflow_provider_impala_lb.errors import ImpalaLBError
from tests.support.command_line import lb
from tests.support.marked_secrets import DIGITS, MARK, leaks

URL = f"redis://usr:{MARK}@127.0.0.1"

STORES = [
    f"redis:/u:{MARK}@h",
    f"postgres://u:{MARK}@h/db",
    f"redis://u:{MARK}@h/x/y",
    f"redis://u:{MARK}/q@h",
    f"redis://u:{MARK}@h:99999",
    f"redis://u:12/{MARK}@h",
    f"redis://h:{MARK}",
    f"redis://h?password={MARK}",
    f"rediss://h?password={MARK}",
    f"redis+sentinel://:{MARK}@h",
    f"redis+sentinel://h/{MARK}/x",
    f"redis+cluster://:{MARK}@h/3",
    f"redis://:{MARK}@h,i",
    f":{MARK}@h",
    MARK,
    f"[{URL}]",
    f"{{url: '{URL}'}}",
    f"{{{MARK}: 1}}",
    f"!!binary {MARK}",
    f"!!python/object {MARK}",
]
SYNTAX = [  # of the value of a key
    f"*{MARK}",
    f"!{MARK}",
    f"!{MARK} x",
    f"&{MARK}",
    f"%{MARK}",
    f"@{MARK}",
    f"`{MARK}",
    f"'{MARK}",
    f'"{MARK}',
    f'"\\{MARK}"',
    f"'{MARK}'x",
    f"[{MARK}",
    f"{{{MARK}",
    f"{MARK}: x: y",
    f"{MARK}\n bad",
    f"{MARK}\n\tbad: x",
    f"|{MARK}",
    f">-{MARK}",
    f"? {MARK}",
    f"- {MARK}",
    f"{MARK}\x07",
    f"{MARK}\x00",
    f"{MARK}\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    DIGITS,
    "07:73:11",
    f"!!int {MARK}",
    f"!!float {MARK}",
    f"!!timestamp {MARK}",
    f"!!timestamp 2026-{DIGITS}-1",
    f"!!set {MARK}",
    f"!!omap [{MARK}]",
    f"!!pairs {MARK}",
    f"!!null {MARK}",
    f"!!bool {MARK}",
    f"<< {MARK}",
    f"{{<<: {MARK}}}",
    f"{{? [{MARK}] : x}}",
    f"{{? {{{MARK}: x}} : x}}",
    f"{{{MARK}: 1, {MARK}: 2}}",
    f"{{password: {MARK}, password: {MARK}}}",
]
VALUES = [URL, f"[{URL}]", f"{{x: '{URL}'}}", f"{{password: {MARK}}}", f"[{{password: {MARK}}}]"]
"""Under keys that are for something else. No password alone: nobody could tell it from a value."""
KEYS = (
    "node_count",
    "port",
    "policy",
    "lock_file",
    "deployment",
    "max_leases",
    "max_leases_per_node",
    "max_wait",
    "load",
    "session",
    "nodes",
)
SESSION = ("user", "auth_mechanism", "open_timeout", "use_ssl", "query_options", "password_file", "ca_cert")
LOAD = ("floor", "busy", "overloaded", "weights", "refresh", "web_auth", "web_user", "ca_cert", "verify_cert")
NODE = ("host", "port", "weight", "web", "metrics", "exporter", "max_leases")


def files():
    """Each wrong file's text."""
    begin = "nodes: [127.0.0.1:1, 127.0.0.1:2]\nlock_file: /tmp/nowhere/lock\n"
    for key in ("store", "mirror"):
        yield from (f"{begin}{key}: {value}\n" for value in STORES)
    for key in ("store", "mirror", "session: {database: x}\nweb_password", "password"):
        yield from (f"{begin}{key}: {value}\n" for value in SYNTAX)
    for key in ("stor", "Mirror", "password", "seal_key", "IMPALA_LB_STORE_PASSWORD", "redis"):
        yield f"{begin}{key}: {MARK}\n"
        yield f"{begin}{key}: {URL}\n"
    for text in (f"store:{URL}", f"{{store:{URL}}}", f"{URL}: 1", f"? {URL}", f"store {URL}", f"{URL}", f"- {URL}"):
        yield f"{begin}{text}\n"
        yield f"{text}\n"
        yield f"{text}: x\n{begin}"
    for key in KEYS:
        yield from (f"name: x\n{key}: {value}\n" + ("" if key == "nodes" else begin) for value in VALUES)
        yield from (f"name: x\n{key}: {value}\n" + ("" if key == "nodes" else "nodes: [a]\n") for value in VALUES)
    for section, keys in (("session", SESSION), ("load", LOAD)):
        for key in (*keys, "password", "web_password", "pasword", "passwort", f"'{URL}'"):
            yield from (f"{begin}{section}: {{{key}: {value}}}\n" for value in VALUES)
        yield f"{begin}{section}: {{password: {MARK}, open_timeout: soon}}\n"
    yield f"{begin}session: {{password_file: {MARK}}}\n"
    for key in (*NODE, "password", f"'{URL}'"):
        yield from (f"lock_file: /tmp/nowhere/lock\nnodes: [b, {{host: a, {key}: {value}}}]\n" for value in VALUES)
    for url in (f"http://u:{MARK}@h:25000", f"u:{MARK}@h", f"http://[{MARK}@h", f"impala://u:{MARK}@h:21050"):
        yield f"lock_file: /tmp/nowhere/lock\nnodes: ['{url}', b]\n"
        yield f"lock_file: /tmp/nowhere/lock\nnodes: ['{url}', '{url}']\n"
        yield from (
            f"load: {{web_auth: basic, web_user: u}}\nlock_file: /l\nnodes: [b, {{host: a, {key}: '{url}'}}]\n"
            for key in ("web", "metrics", "exporter", "host")
        )


FILES = sorted(set(files()))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("", "STORE_", "SENTINEL_", "MIRROR_", "MIRROR_SENTINEL_", "WEB_"):
        monkeypatch.setenv(f"IMPALA_LB_{name}PASSWORD", f"{MARK} of the environment")
    monkeypatch.setenv("IMPALA_LB_SEAL_KEY", f"{MARK} of the environment")


@pytest.mark.parametrize("every", [30, pytest.param(1, marks=pytest.mark.slow)])
def test_no_error_of_a_configuration_shows_a_password(tmp_path, logged, every):
    path, found, refused = tmp_path / "impala_lb.yml", {}, 0
    for text in FILES[::every]:
        path.write_text(text, encoding="utf-8")
        try:
            balancer = Balancer.from_config(path)
            said = repr(balancer.config.store) + str(balancer.config.mirror) + balancer.command
        except Exception as error:
            said = "".join(traceback.format_exception(error)) + repr(error.args)
            refused += 1
            if not isinstance(error, ImpalaLBError):
                found[text] = [said]
        if lines := leaks(said + logged.text):
            found[text] = lines
        logged.text = ""
    assert found == {}
    assert refused > 0.8 * len(FILES[::every]) > 300 / every


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["status", "--json"],
        ["pick"],
        ["pick", "--json", "--session-key", "k"],
        ["doctor"],
        ["doctor", "--json"],
        ["run", "SCRIPT"],
        ["run", "SCRIPT", "--json"],
        ["leftovers"],
        ["journal"],
        ["probe"],
    ],
    ids=" ".join,
)
def test_no_command_shows_a_password(tmp_path, logged, capsys, command):
    path, script, found = tmp_path / "impala_lb.yml", tmp_path / "x.sql", {}
    script.write_text("SELECT 1")
    for text in FILES:
        path.write_text(text, encoding="utf-8")
        try:
            Balancer.from_config(path)
            refused = False  # it can be meant, whatever it was meant for
        except ImpalaLBError:
            refused = True
        logged.text = ""
        code = main(["--config", str(path), *(str(script) if word == "SCRIPT" else word for word in command)])
        assert code == 1 or not refused, text
        if lines := leaks("".join(capsys.readouterr()) + logged.text):
            found[text] = lines
    assert found == {}


def test_no_process_shows_a_password(tmp_path):
    path = tmp_path / "impala_lb.yml"
    for text in FILES[:: len(FILES) // 3]:
        path.write_text(text, encoding="utf-8")
        done = lb("status", config=path)
        assert not leaks(done.stdout + done.stderr), text
        assert "Traceback" not in done.stderr

"""Passwords and auth_mechanisms, right and wrong."""

import re

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable
from airflow_provider_impala_lb.sandbox import Sandbox

from .conftest import changed, rows_of, run


@pytest.fixture(scope="module")
def guarded():
    with Sandbox(nodes=2, lag=0, users={"etl": "s3cret"}) as cluster:
        yield cluster


def test_a_login_by_password(guarded):
    config = {**guarded.config, "session": {**guarded.config["session"], "user": "etl"}}
    done = run(Balancer.from_config(config, password="s3cret"), "SELECT effective_user()", handler=rows_of)
    assert done.results == [[("etl",)]]


def test_a_wrong_password_is_one_clear_error_without_it(guarded, log):
    config = {**guarded.config, "session": {**guarded.config["session"], "user": "etl", "auth_mechanism": "LDAP"}}
    with pytest.raises(ConfigError) as caught:
        run(Balancer.from_config(config, password="wr0ng"), "SELECT 1")
    assert re.search(r"127\.0\.0\.1:\d+: the login was refused \(user 'etl', auth_mechanism LDAP\)", str(caught.value))
    assert "wr0ng" not in str(caught.value)
    assert "wr0ng" not in log.text


def test_a_wrong_auth_mechanism_is_named(guarded):
    with pytest.raises(NoNodeAvailable, match="auth_mechanism NOSASL"):
        run(changed(guarded, session={"auth_mechanism": "NOSASL"}), "SELECT 1")
    with (
        Sandbox(nodes=2, lag=0, users=None) as anybody,
        pytest.raises(NoNodeAvailable, match="auth_mechanism PLAIN; does it speak another"),
    ):
        run(changed(anybody, session={"auth_mechanism": "PLAIN", "user": "x", "open_timeout": 2}), "SELECT 1")

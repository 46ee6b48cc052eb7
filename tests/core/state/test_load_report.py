import pytest

from airflow_provider_impala_lb.core.state.load_report import LoadSample, parse_sample
from airflow_provider_impala_lb.errors import ConfigError


def test_a_sites_own_agent_may_say_some_or_all():
    assert parse_sample("{}") == LoadSample()
    assert parse_sample(b'{"shares": {"cpu": 1, "memory": 0.25, "my_gpu": 0}}').shares == {
        "cpu": 1.0,
        "memory": 0.25,
        "my_gpu": 0.0,
    }
    text = '{"queries": 3.5, "sessions": 7, "queued": 0, "quiescing": true}'
    assert parse_sample(text) == LoadSample(queries=3.5, sessions=7, queued=0, quiescing=True)
    assert parse_sample('{"queries": null}') == LoadSample()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        (b"\xff", "is not JSON"),
        ("[1]", "[1] is not an object with keys; allowed: queries, sessions, queued, shares, quiescing"),
        ('{"cpu": 1}', "cpu: unknown key; allowed: queries, sessions, queued, shares, quiescing"),
        ('{"queries": -1}', "queries: -1 is not a number, 0 or more"),
        ('{"queries": "3"}', "queries: '3' is not a number, 0 or more"),
        ('{"sessions": 1.5}', "sessions: 1.5 is not a whole number, 0 or more"),
        ('{"queued": -2}', "queued: -2 is not a whole number, 0 or more"),
        ('{"queued": true}', "queued: True is not a whole number"),
        ('{"quiescing": "yes"}', "quiescing: 'yes' is not true or false"),
        ('{"shares": 0.5}', "shares: 0.5 is not a mapping"),
        ('{"shares": {"cpu": 1.01}}', "shares.cpu: 1.01 is not a number within 0 and 1: the share that is free"),
        ('{"shares": {"cpu": -0.01}}', "shares.cpu: -0.01 is not"),
        ('{"shares": {"cpu": "0.5"}}', "shares.cpu: '0.5' is not"),
        ('{"shares": {"cpu": true}}', "shares.cpu: True is not"),
        ('{"shares": {"cpu": null}}', "shares.cpu: None is not"),
        ('{"shares": {"Cpu": 1}}', "shares: the name 'Cpu' may hold only a-z and _"),
        ('{"shares": {"": 1}}', "shares: the name '' may hold only a-z and _"),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(text, says):
    with pytest.raises(ConfigError) as caught:
        parse_sample(text)
    assert str(caught.value).startswith(f"report: {says}")


def test_a_long_value_is_cut():
    with pytest.raises(ConfigError) as caught:
        parse_sample('{"queries": "' + "x" * 10000 + '"}')
    assert len(str(caught.value)) < 200

from math import inf, nan

import pytest

from airflow_provider_impala_lb.core.config.value_limits import WEEK, check_seconds, in_clear_text
from airflow_provider_impala_lb.errors import ConfigError


@pytest.mark.parametrize("value", [nan, inf, -1.0, 0.0, WEEK + 1])
def test_a_time_that_cannot_be_meant_is_named_with_what_is_allowed(value):
    with pytest.raises(ConfigError, match=r"^pause: is .*, must be above 0 and at most 604800 seconds \(too long\)$"):
        check_seconds("pause", value, WEEK, "too long")


def test_a_time_within_its_limits_is_taken():
    check_seconds("pause", WEEK, WEEK, "too long")
    check_seconds("pause", 0, WEEK, "too long", least=0)
    with pytest.raises(ConfigError, match=r"is 0\.4, must be 0\.5 or more and at most 9 seconds"):
        check_seconds("pause", 0.4, 9, "too long", least=0.5)


def test_a_host_that_only_looks_like_loopback_is_not():
    assert in_clear_text("http://127.0.0.1.example.com", "basic")
    assert in_clear_text("http://localhost.example.com", "bearer")
    assert not in_clear_text("http://a", "digest")

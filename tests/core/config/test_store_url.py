import pytest

from airflow_provider_impala_lb.core.config.store_url import parse_store


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("redis://h:1/5", "redis://h:1/5"),
        ("redis://[::1]:7", "redis://[::1]:7/0"),
        ("rediss://u:p@h", "rediss://h:6379/0"),
        ("redis+sentinel://u:p@h,i:9/main", "redis+sentinel://h:26379,i:9/main/0"),
        ("redis+sentinel://h/main/2", "redis+sentinel://h:26379/main/2"),
        ("redis+cluster://:p@h,i:9", "redis+cluster://h:6379,i:9"),
        ("rediss+cluster://h", "rediss+cluster://h:6379"),
    ],
)
def test_each_kind_is_read_and_written_without_its_password(text, expected):
    assert str(parse_store(text)) == expected


def test_a_login_may_hold_any_character_in_percent_form():
    url = parse_store("redis://us%40er:p%3A%2F%40%23ss:w@h")
    assert (url.user, url.password) == ("us@er", "p:/@#ss:w")
    assert parse_store("redis://h").password is None
    assert parse_store("redis://u@h").user == "u"


def test_files_of_tls_are_passed_on():
    url = parse_store("rediss://h/1?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem")
    assert dict(url.tls_files) == {"ssl_ca_certs": "/ca.pem", "ssl_certfile": "/c.pem"}


def test_file_is_no_url():
    assert parse_store("file") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "redis",
        "Redis://s3cret",
        "redis://",
        "redis://:s3cret@",
        "redis://:s3/cret@h",
        "redis://:s3#cret@h",
        "redis://:s3?cret@h",
        "redis://:s3@cret@h",
        "redis://h:99999/s3cret",
        "redis://u:12/s3cret@h",
        "redis://h:s3cret",
        "redis://h:99999",
        "redis://h,i",
        "redis://h?ssl_ca_certs=/s3cret",
        "rediss://h?password=s3cret",
        "redis+sentinel://s3cret@h",
        "redis+sentinel://h/s3cret/x",
        "redis+cluster://h/0",
    ],
)
def test_anything_else_is_refused_and_not_shown(text):
    with pytest.raises(ValueError, match="allowed|is not one of") as caught:
        parse_store(text)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("show", [str, repr])
def test_its_text_has_no_password(show):
    assert "s3cret" not in show(parse_store("redis://u:s3cret@h"))

"""The label: whatever is in its tags, it is one comment, and no more."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_impala_lb.impala.sql.label import MAX_CHARS, Label, nonce_of, own_in, own_of, tag_in
from airflow_provider_impala_lb.impala.sql.lexer import tokens

tag = st.text(st.sampled_from("*/ \n\r\0\x7f\x85\u2028+-'a;"), max_size=8) | st.text()


@settings(deadline=None)
@example("a*\n/ drop table x --")
@example("x" * 160 + "*" * 60)
@given(tag)
def test_no_tag_ends_the_comment(value):
    label = str(Label.new(1, 1, {"dag": value, "task": "t*"}))
    assert len(label) <= MAX_CHARS
    first, second = tokens(f"{label} drop")
    assert (first.kind, first.text) == ("comment", label)
    assert second.text == "drop"
    assert nonce_of(f"{label} drop") in label


def test_a_label_knows_its_own_nonce_and_each_has_another():
    label, other = Label.new(3, 12, {"dag": "d", "run": ""}), Label.new(3, 12, {"dag": "d", "run": ""})
    assert str(label) == f"/* {label.nonce} 3/12 dag=d */"
    assert nonce_of(f"{label} SELECT 1") == label.nonce != other.nonce
    assert nonce_of("SELECT 1") is None


def test_a_label_that_is_quoted_is_not_the_statements_own():
    label = Label.new(1, 1, {"dag": "d"}, "dag/run/task")
    assert own_in(f"{label} SELECT 1") == own_of("dag/run/task")
    assert own_in(str(label)[:50] + "...") == own_of("dag/run/task")  # as a page may cut it
    for text in (f"SELECT '{label}'", f"-- {label}", f"{Label.new(1, 1, {})} SELECT '{label}'"):
        assert nonce_of(text) != label.nonce
        assert own_in(text) is None


@pytest.mark.parametrize("key", ["dag*/ drop table x --", "a*\n/ drop", "*/", "a\r\nb", "a*"])
def test_no_tags_name_ends_the_comment(key):
    label = str(Label.new(1, 1, {key: "x", "task": "t"}))
    first, second = tokens(f"{label} drop")
    assert (first.kind, first.text) == ("comment", label)
    assert second.text == "drop"
    assert label.isprintable()


@pytest.mark.parametrize(
    ("cut", "found"), [(None, "2"), (45, None), (54, None), (60, None)], ids=["whole", "before", "within", "at its end"]
)
def test_a_tag_is_read_only_where_it_is_whole(cut, found):
    text = f"{Label('lb:0123456789abcdef', 1, 1, {'try': '2', 'dag': 'try=3'}, 'own:0123456789abcdef')} SELECT 1"[:cut]
    assert tag_in(text, "try") == found


def test_a_tag_of_a_quoted_label_is_not_the_statements_own():
    assert tag_in("SELECT 1 /* lb:0123456789abcdef 1/1 try=2 */", "try") is None

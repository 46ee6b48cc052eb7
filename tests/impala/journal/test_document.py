"""The document of a journal: of this version or of another."""

import pytest

from airflow_provider_impala_lb.errors import ConfigError, JournalDamaged
from airflow_provider_impala_lb.impala.journal.document import FORMAT, Intent, Record, decode, encode

WHERE = "/x/journals of dag/run/task"


@pytest.mark.parametrize("more", [b"", b',"done":[1,2]', b',"intent":"gone"'])
def test_a_newer_one_is_refused_by_name_whether_it_can_be_read_or_not(more):
    with pytest.raises(ConfigError, match=f"^{WHERE}: was written by a newer version .*format {FORMAT + 1}.*Upgrade"):
        decode(b'{"format":%d%b}' % (FORMAT + 1, more), WHERE)


@pytest.mark.parametrize("document", [b'{"format":%d,"done":[1,2]}' % FORMAT, b"", b"[]"])
def test_one_that_no_version_writes_is_damaged_and_not_new(document):
    with pytest.raises(JournalDamaged, match=f"^{WHERE}: .*unknown which statements ran"):
        decode(document, WHERE)


def test_a_field_that_a_later_version_has_added_is_passed_over():
    record = Record(done=3, intent=Intent(4, "lb:1", "a:1", "s", 1.0))
    later = encode(record, 5.0).replace(b'"done":3', b'"done":3,"later":[1]').replace(b'"nonce"', b'"later":2,"nonce"')
    assert decode(later, WHERE) == record

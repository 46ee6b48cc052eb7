import pytest

from airflow_provider_impala_lb.stores.journals.file import FileJournals


@pytest.fixture
def journals(tmp_path):
    return FileJournals(str(tmp_path / "node_in_use.tmp"))

"""A file that hosts share is whole when it has its name, and what could not be made leaves nothing."""

import errno
import os

import pytest

from airflow_provider_impala_lb.stores.file.new_file import make_whole


def test_a_file_whose_mode_cannot_be_set_leaves_nothing(tmp_path, monkeypatch):
    def refuse(descriptor, mode):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refuse)
    with pytest.raises(OSError, match="Operation not permitted"):
        make_whole(str(tmp_path / "lock"), 0o660, lambda descriptor: None)
    assert os.listdir(tmp_path) == []

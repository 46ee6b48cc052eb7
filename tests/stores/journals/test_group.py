"""Journals of several users: a worker's run_as_user and the triggerer's, in real processes, each as another user."""

import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile

import pytest

from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.stores.file.new_file import hidden_path
from airflow_provider_impala_lb.stores.journals.file import FileJournals
from tests.support.store_changes import KEY, file_of, put

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="not root: journals of several users are NOT tested")
ALICE, BOB, EVE = 41001, 41002, 41003
GROUP, OTHERS = 41100, 41200

USER = """
import json, os, sys
# All of it before the user is another one: Python may lie where only this one comes to.
from airflow_provider_impala_lb.errors import ImpalaLBError
from airflow_provider_impala_lb.stores.file import filesystem, xattr_versions
from airflow_provider_impala_lb.stores.journals import versions
from airflow_provider_impala_lb.stores.journals.file import FileJournals
umask, user, groups, lock_file, value, mode = json.loads(sys.argv[1])
os.umask(umask); os.setgroups(groups); os.setgid(groups[0]); os.setuid(user)
if mode == "versions":
    filesystem.is_coherent = lambda magic: False
journals = FileJournals(lock_file)
try:
    body = value.encode() + os.urandom(10_000)  # in versions, too large for an attribute
    old = journals.change("dag/task/run", lambda old, now: (old, body))
    assert journals.read("dag/task/run") == body
    assert journals.keys() == ["dag/task/run"]
    journals.sweep(lambda *found: True)
    print(old and old[:1].decode())
except ImpalaLBError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def nas():
    """A directory that every user may come to; pytest's own are closed again by each pytest that begins."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="impala-lb-test-", ignore_cleanup_errors=True) as place:
        os.chmod(place, 0o755)
        nas = pathlib.Path(place) / "the nas"
        nas.mkdir()
        os.chown(nas, -1, GROUP)
        nas.chmod(0o2770)
        yield nas


def write(nas, user, value, *, groups=(GROUP,), umask=0o022, mode="slots"):
    order = json.dumps([umask, user, groups, str(nas / "lock"), value, mode])
    found = subprocess.run([sys.executable, "-c", USER, order], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", ["slots", "versions"])
def test_users_of_one_group_go_on_with_each_others_journals(nas, umask, mode):
    # The primary group of each is another one: setgid gives the files theirs.
    assert write(nas, ALICE, "a", groups=(ALICE, GROUP), umask=umask, mode=mode) == "None"
    assert write(nas, BOB, "b", groups=(BOB, GROUP), umask=umask, mode=mode) == "a"
    assert write(nas, ALICE, "c", groups=(ALICE, GROUP), umask=umask, mode=mode) == "b"
    directory = nas / "lock.journal"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o2770
    entries = list(os.scandir(directory))
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in entries} == {0o660}
    assert {entry.stat().st_gid for entry in entries} == {GROUP}
    assert {entry.stat().st_uid for entry in entries} <= {ALICE, BOB}


def test_nobody_else_may_read_or_write_them(nas):
    assert write(nas, ALICE, "a") == "None"
    nas.chmod(0o2775)  # others may enter the lock file's directory, and see no journal
    said = write(nas, EVE, "e", groups=(OTHERS,))
    assert said.startswith("ConfigError") and "Permission denied" in said
    assert write(nas, BOB, "b") == "a"


def test_where_no_group_shares_the_directory_one_user_has_the_journals_and_another_is_told_what_to_set(nas):
    nas.chmod(0o777)
    assert write(nas, ALICE, "a") == "None"
    directory = nas / "lock.journal"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    said = write(nas, BOB, "b")
    assert said.startswith("ConfigError") and "Users share journals by a group of theirs" in said
    # What it says is enough, word for word.
    commands = said.partition("a group of theirs: ")[2].replace("GROUP", str(GROUP))
    subprocess.run(["sh", "-ec", commands], check=True)
    assert write(nas, BOB, "b") == "a"
    assert write(nas, ALICE, "c") == "b"


def test_a_first_user_who_has_not_yet_set_its_mode_is_waited_for(nas):
    directory = nas / "lock.journal"
    directory.mkdir(mode=0o700)
    os.chown(directory, ALICE, GROUP)
    order = json.dumps([0o022, BOB, (GROUP,), str(nas / "lock"), "b", "slots"])
    bob = subprocess.Popen([sys.executable, "-c", USER, order], stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        bob.wait(1.5)
    directory.chmod(0o2770)
    assert bob.communicate(timeout=30)[0].strip() == "None"


@pytest.mark.parametrize(
    ("mode", "group"),
    [(0o2777, GROUP), (0o770, GROUP), (0o2770, OTHERS), (0o2730, GROUP)],
    ids=["everybody", "no setgid", "another group", "not readable"],
)
def test_a_directory_that_others_than_the_group_may_write_is_refused(nas, mode, group):
    directory = nas / "lock.journal"
    directory.mkdir()
    os.chown(directory, ALICE, group)
    directory.chmod(mode)
    journals = FileJournals(str(nas / "lock"))
    with pytest.raises(ConfigError, match="others may write into it"):
        journals.read(KEY)
    with pytest.raises(ConfigError, match="others may write into it"):
        journals.change(KEY, put(b"x"))


@pytest.mark.parametrize("mode", [0o2777, 0o770, 0o2750])
def test_only_a_directory_of_a_group_is_the_model(nas, mode):
    nas.chmod(mode)
    journals = FileJournals(str(nas / "lock"))
    journals.change(KEY, put(b"x"))
    assert stat.S_IMODE(os.stat(journals.where).st_mode) & 0o777 == 0o700
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(journals.where)} == {0o600}


@pytest.mark.parametrize("what", ["journal", "directory", "lock"])
def test_a_link_that_one_of_the_group_has_left_is_not_followed(nas, tmp_path, what):
    victim = tmp_path / "victim"
    journals = FileJournals(str(nas / "lock"))
    if what == "directory":
        victim.mkdir(mode=0o700)
        os.symlink(victim, journals.where)
    else:
        journals.change("other", put(b"x"))
        victim.write_bytes(pathlib.Path(file_of(journals, "other")).read_bytes())
        place = file_of(journals) if what == "journal" else os.path.join(journals.where, "lock")
        pathlib.Path(place).unlink(missing_ok=True)
        os.symlink(victim, place)
    before = victim.stat(), victim.read_bytes() if victim.is_file() else os.listdir(victim)
    for action in (lambda: journals.change(KEY, put(b"y")), lambda: journals.read(KEY)):
        with pytest.raises(ConfigError, match="is not a directory|is a symbolic link"):
            action()
    after = victim.stat(), victim.read_bytes() if victim.is_file() else os.listdir(victim)
    assert (before[0].st_mode, before[0].st_mtime, before[1]) == (after[0].st_mode, after[0].st_mtime, after[1])


def test_what_a_killed_writer_of_the_group_has_left_is_swept_by_another(nas):
    assert write(nas, ALICE, "a") == "None"
    left = hidden_path(str(nas / "lock.journal" / ("0" * 32)), "a" * 16)
    pathlib.Path(left).touch()
    os.chown(left, ALICE, GROUP)
    os.utime(left, (1, 1))
    assert write(nas, BOB, "b") == "a"
    assert not os.path.exists(left)

"""A call whose caller may be gone before it ends: what it must not do then."""

import os
import threading

import pytest

from airflow_provider_impala_lb.errors import StateUnavailable
from airflow_provider_impala_lb.stores.file import bounded_calls, filesystem
from airflow_provider_impala_lb.stores.file.bounded_calls import Abandoned, BoundedCalls, Call


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Of a file that is taken for one on a mount that may hang."""
    monkeypatch.setattr(filesystem, "is_local", lambda directory: False)
    monkeypatch.setattr(bounded_calls, "GRACE_SECONDS", 0.05)
    return BoundedCalls.of(str(tmp_path / "node_in_use.tmp"))


class Hanging:
    """Work that hangs until it is let go."""

    def __init__(self, act=None):
        self.act = act or (lambda call: None)
        self.begun, self.go_on, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.said = ""

    def __call__(self, call):
        try:
            self.begun.set()
            self.go_on.wait()
            self.act(call)
            self.said = "went on"
        except Abandoned:
            self.said = "abandoned"
            raise
        finally:
            self.ended.set()


def given_up(calls, hanging, work=None):
    """What its caller is told, who goes as soon as it hangs."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StateUnavailable) as error:
        patch.setattr(Call, "patience", property(lambda call: hanging.begun.wait() and 0.0))
        calls.run(work or hanging, 1.0)
    return str(error.value)


@pytest.mark.parametrize("act", [Call.commits, lambda call: call.compute(list)])
def test_one_that_was_given_up_neither_computes_nor_writes(calls, act):
    hanging = Hanging(act)
    message = given_up(calls, hanging)
    assert "did not answer within" in message and "nothing was noted" in message
    hanging.go_on.set()
    hanging.ended.wait()
    assert hanging.said == "abandoned"


def test_one_that_hangs_once_it_writes_is_unknown(calls):
    hanging = Hanging()

    def work(call):
        call.commits()
        hanging(call)

    assert "outcome unknown" in given_up(calls, hanging, work)
    hanging.go_on.set()


def test_a_change_that_hangs_while_it_reads_does_not_go_on(calls):
    """Records are read when a change asks for them."""
    hanging, steps = Hanging(), []

    def change():
        steps.append("begins")
        hanging.read()
        steps.append("goes on")

    def work(call):
        hanging.read = lambda: call.read(hanging, call)
        call.compute(change)

    assert "nothing was noted" in given_up(calls, hanging, work)
    hanging.go_on.set()
    hanging.ended.wait()
    calls_again(calls)
    assert steps == ["begins"]


def calls_again(calls):
    while True:
        try:
            return calls.run(lambda call: "answered", 1.0)
        except StateUnavailable:
            pass


def test_while_one_hangs_no_other_gets_a_thread_and_then_all_do(calls):
    hanging = Hanging()
    given_up(calls, hanging)
    for _ in range(3):
        with pytest.raises(StateUnavailable, match="is not asked again until it does; nothing was noted"):
            calls.run(hanging, 1.0)
    assert calls._at_work == 1
    hanging.go_on.set()
    assert calls_again(calls) == "answered"
    assert calls._at_work == 0


def test_one_whose_answer_is_lost_for_good_keeps_nobody_from_a_file_system_that_answers(calls, monkeypatch):
    hanging, again = Hanging(), Hanging()
    calls.run(lambda call: None, 1.0)
    given_up(calls, hanging)
    with pytest.raises(StateUnavailable, match="is not asked again"):
        calls.run(list, 1.0)
    monkeypatch.setattr(bounded_calls, "LOOK_SECONDS", 0.0)
    calls._looks.pause = 0.0  # a minute later
    assert calls_again(calls) == "answered"
    given_up(calls, again)  # it counts anew
    assert calls_again(calls) == "answered"
    assert calls._at_work == 2
    for each in (hanging, again):
        each.go_on.set()
        each.ended.wait()
        assert each.said == "went on"  # it would have been stopped before it computed, or wrote


def test_where_a_look_hangs_too_there_is_no_other_one(calls, monkeypatch):
    hanging, look = Hanging(), Hanging()
    given_up(calls, hanging)
    calls._looks.pause = 0.0
    monkeypatch.setattr(calls, "_look", look)
    for _ in range(5):
        with pytest.raises(StateUnavailable, match="is not asked again"):
            calls.run(list, 1.0)
    assert calls._at_work == 2
    hanging.go_on.set()
    look.go_on.set()
    assert calls_again(calls) == "answered"


def test_who_waits_for_one_that_hangs_waits_no_deadline_of_his_own(calls):
    hanging, second = Hanging(), []

    def hang():
        with pytest.raises(StateUnavailable):
            calls.run(hanging, 0.3, calls.changes)

    first = threading.Thread(target=hang)
    first.start()
    hanging.begun.wait()
    with pytest.raises(StateUnavailable, match="is not asked again"):
        calls.run(second.append, 5.0, calls.changes)
    first.join()
    hanging.go_on.set()
    assert not second


def test_what_a_call_raises_is_its_callers(calls):
    def fail(call):
        raise FileExistsError("there")

    with pytest.raises(FileExistsError, match="there"):
        calls.run(fail, 1.0)
    assert calls_again(calls) == "answered"


def test_a_thread_without_work_ends(calls, monkeypatch):
    monkeypatch.setattr(bounded_calls, "_IDLE_SECONDS", 0.01)
    workers = []
    calls.run(lambda call: workers.append(threading.current_thread()), 1.0)
    workers[0].join()
    assert calls_again(calls) == "answered"


TABLE = """1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 0:9 / /nas rw - nfs4 server:/ rw
3 2 8:2 / /nas/disk rw - ext4 /dev/sdb rw
4 1 0:8 / /with\\040blank rw - fuse.glusterfs nas rw
5 1 0:7 / /hidden rw - fuse.sshfs x rw
6 5 0:6 / /hidden rw - tmpfs x rw
7 1 0:5 / /auto rw - autofs x rw
"""


def test_what_is_local_is_told_without_asking_what_may_hang(tmp_path):
    table = tmp_path / "table"
    table.write_text(TABLE)
    told = {
        directory: filesystem.is_local(directory, str(table))
        for directory in ("/x/y", "/nas", "/nas/x", "/nas/disk/x", "/nasty", "/with blank/x", "/hidden/x", "/auto/x")
    }
    assert [directory for directory, local in told.items() if local] == ["/x/y", "/nasty", "/hidden/x"]
    assert [filesystem.device_of(path, str(table)) for path in ("/x", "/nas", "/nas/disk/x", "/hidden", "/nasty")] == [
        *(b"8:1", b"0:9", b"8:2", b"0:6", b"8:1")
    ]
    os.symlink("/nas", tmp_path / "link")
    assert filesystem.is_local(str(tmp_path / "link" / "x"), str(table)) is None
    assert filesystem.is_local("/x", str(tmp_path / "no table")) is False

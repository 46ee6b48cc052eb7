"""A mount that hangs, as its daemon is stopped: one deadline, once, and nobody else's work waits for it."""

import pytest

from tests.support.hanging_mounts import fuse_mount, run

pytestmark = pytest.mark.slow


@pytest.fixture(params=["fuse", "gluster"])
def on_a_mount(request, tmp_path):
    """Runs a program beside a mount."""
    other = str(tmp_path / "other.tmp")
    if request.param == "gluster":
        volume = request.getfixturevalue("gluster_volume")
        directory = request.getfixturevalue("gluster")[0]
        yield lambda program: run(volume.mounts[0], directory, other, program)
    else:
        with fuse_mount(tmp_path) as mount:
            yield lambda program: run(mount, mount.path, other, program)


def test_one_deadline_once_and_nothing_lands_that_was_given_up(on_a_mount):
    first, again, third, threads, called, back = on_a_mount("""
store, called = FileStore(path), []
store.transact(bump)
hang(store)
print(error_of(store.transact, lambda state, now: called.append(bump(state, now))))
print(error_of(FileStore(path).transact, bump))
print(error_of(FileJournals(path).read, "key"))
print(threads())
go_on()
back = once_back(store.transact, bump)
print(called)
print(back, threads())
""")
    assert "did not answer within" in first and "nothing was noted" in first
    assert "is not asked again until it does" in again
    assert "is not asked again until it does" in third
    assert (threads, called, back) == ("1", "[]", "2 1")


def test_what_was_about_to_be_written_is_said_to_be_unknown_and_lands_once(on_a_mount):
    small, seen, large, seen_then = on_a_mount("""
store = FileStore(path)
store.transact(bump)

def stopped(state, now):
    bump(state, now)
    hang()

hurry(store)
print(error_of(store.transact, stopped))
go_on(store)
print(once_back(store.transact, bump))

from airflow_provider_impala_lb.stores.file import xattr_versions
from tests.support.xattr_files import data_files, grow
write = xattr_versions.write_data_file

def stopped_before_the_data_file(*arguments):
    hang()
    write(*arguments)

xattr_versions.write_data_file = stopped_before_the_data_file
hurry(store)
print(error_of(store.transact, lambda state, now: (grow(state, now), bump(state, now))))
xattr_versions.write_data_file = write
go_on(store)
print(once_back(store.transact, bump), data_files(path))
""")
    assert "outcome unknown: it may have been noted" in small
    assert seen == "3"
    assert "nothing was noted" in large  # what has no name yet counts for nothing
    assert seen_then == "4 []"


def test_others_and_forks_do_not_wait_for_it_and_the_interpreter_ends(on_a_mount):
    others, childs, status = on_a_mount("""
store, patient = FileStore(path), FileStore(path, 1000.0)
for each in store, patient:
    each.transact(bump)  # so that it hangs when it opens the file
hang(store)
threading.Thread(target=error_of, args=(patient.transact, bump), daemon=True).start()
time.sleep(0.1)
print(FileStore(other).transact(bump), flush=True)  # another cluster's
child = os.fork()
if child == 0:
    print(FileStore(other).transact(bump), error_of(store.transact, bump).partition(": ")[2], flush=True)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
    assert (others, status) == ("1", "0")
    assert childs.startswith("2 its file system did not answer within")


def test_a_child_of_one_that_hangs_with_the_lock_goes_on_and_does_not_keep_it(on_a_mount):
    assert on_a_mount("""
store = FileStore(path)
store.transact(bump)
hung = threading.Event()

def stopped(state, now):
    bump(state, now)
    hang()
    hung.set()

threading.Thread(target=error_of, args=(FileStore(path, 1000.0).transact, stopped)).start()
hung.wait()
time.sleep(0.1)
def copies():
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")
        and os.readlink(f"/proc/self/fd/{fd}") == path]

read, write = os.pipe()
back, tell = os.pipe()
child = os.fork()
if child == 0:
    os.write(write, b"goes on\\n")
    os.read(back, 1)
    until(lambda: not copies())
    os.write(write, b"closed\\n")
    os._exit(0)
print(os.read(read, 100).decode().strip(), len(copies()))
go_on()
os.write(tell, b".")
print(os.read(read, 100).decode().strip())
os.waitpid(child, 0)
print(once_back(store.transact, bump))
""") == ["goes on 1", "closed", "3"]


def test_who_can_wait_gets_his_node_when_it_is_back_and_who_cannot_goes_by_what_was_known(on_a_mount):
    alone, full, waited = on_a_mount("""
balancer = balancer_of(path, max_leases=2)
first = balancer.acquire("first")
hang(balancer.cluster.store)
second = balancer.acquire("second", wait=0)
print(second.why)
try:
    balancer.acquire("third", wait=0)
except NoNodeAvailable as error:
    print(str(error).splitlines()[0])
got = []
waiting = threading.Thread(target=lambda: got.append(balancer.acquire("waits", wait=100)))
waiting.start()
time.sleep(1)
assert not got
go_on(balancer.cluster.store)
second.release()
waiting.join()
print(got[0].why, [lease["owner"] for lease in balancer.status()["leases"]])
""")
    assert "the shared state was out of reach" in alone
    assert "2 nodes, 2 full" in full
    assert "out of reach" not in waited and "['first', 'waits']" in waited


def test_leases_of_other_clusters_are_renewed_meanwhile_and_its_own_afterwards(on_a_mount):
    assert on_a_mount("""
lease_keeper.RENEW_SECONDS = 0.05
mine, others = balancer_of(path), balancer_of(other)
held = [mine.acquire("mine"), others.acquire("other's")]

def renewals(balancer):
    return balancer.cluster.store.read()[0].leases.get(next(iter(balancer.cluster.leases._held))).expires

hang(mine.cluster.store)
print(error_of(mine.cluster.store.transact, bump).partition(": ")[2])
before = renewals(others)
until(lambda: renewals(others) > before + 0.3)
print(mine.cluster.leases._thread.is_alive())
before = mine.cluster.leases._held[held[0].lease].lease.expires
go_on(mine.cluster.store)
until(lambda: once_back(renewals, mine) > before)
print("renewed")
for pick in held:
    pick.release()
""")[1:] == ["True", "renewed"]


def test_a_journal_that_hangs_is_an_error_and_never_nothing_done(on_a_mount):
    intent, look, listed, back, after = on_a_mount("""
journals = FileJournals(path)
journals.change("key", lambda document, now: (None, b"1 is done"))
journals._deadline = 0.2
hang()
print(error_of(journals.change, "key", lambda document, now: (None, b"2 is sent")))
print(error_of(journals.read, "key"))
print(error_of(journals.keys))
journals._deadline = 5.0
go_on()
print(once_back(journals.read, "key"))
journals.change("key", lambda document, now: (None, b"2 is sent"))
print(journals.read("key"))
""")
    assert "did not answer within" in intent
    assert "is not asked again" in look and "is not asked again" in listed
    assert (back, after) == ("b'1 is done'", "b'2 is sent'")


def test_the_doctor_names_it(on_a_mount):
    (found,) = on_a_mount("""
from airflow_provider_impala_lb.doctor import lock_directory
lock_directory.HANG_LIMIT = 0.2
hang()
for finding in lock_directory.check_lock_file(path):
    print(finding.name, finding.verdict, finding.message)
""")
    assert found.startswith("lock directory failed")
    assert "did not answer within" in found


def test_a_mount_that_was_put_in_its_place_is_used_though_the_old_one_hangs_for_ever(tmp_path):
    with fuse_mount(tmp_path) as mount:
        assert run(
            mount,
            mount.path,
            str(tmp_path / "other.tmp"),
            """
import subprocess
store = FileStore(path)
store.transact(bump)
hang(store)
print(error_of(store.transact, bump).partition("; ")[2])
subprocess.run(["umount", "--lazy", os.path.dirname(path)], check=True)
new = subprocess.Popen(["bindfs", "-f", os.path.dirname(os.path.dirname(path)) + "/below", os.path.dirname(path)])
try:
    until(lambda: os.path.ismount(os.path.dirname(path)))
    store._lock.deadline, bounded_calls.GRACE_SECONDS = 5.0, 1.0
    print(once_back(store.transact, bump), threads())
finally:
    subprocess.run(["umount", "--lazy", os.path.dirname(path)])
    new.terminate()
""",
        ) == ["nothing was noted", "2 2"]

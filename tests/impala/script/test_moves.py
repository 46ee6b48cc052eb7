"""A script that is to leave its node: what is interrupted is seen to end, and what nobody would see end is not."""

from tests.support.scripts import changed, in_flight, start_script, wait_for


def test_a_move_that_finds_no_session_interrupts_nothing(cluster):
    """As between two sessions: the one that opens meanwhile is nobody's to end from outside."""
    script_run, thread, outcome = start_script(changed(cluster), "SELECT sleep(1500)", restartable=True)
    wait_for(lambda: any(in_flight(node) for node in cluster.nodes))
    execution = script_run._execution
    session, execution.session = execution.session, None
    execution.move("overloaded", anew=True)
    execution.session = session
    thread.join()
    assert [statement.number for statement in outcome[0].statements] == [1]


def test_a_move_interrupts_the_statement_under_way_and_the_script_begins_anew(cluster):
    script_run, thread, outcome = start_script(changed(cluster), "SELECT 1; SELECT sleep(3000)", restartable=True)
    wait_for(lambda: any(in_flight(node) for node in cluster.nodes))
    first = script_run.node
    script_run._on_move("overloaded")
    thread.join()
    done = outcome[0]
    assert (len(done.statements), done.node == first) == (2, False)

"""Which tasks are not retried, and what the next attempt of one would do.

`forbid_retry` is for a running task, whatever fails in it from now on: what Airflow does after ``execute`` (it pushes
the result, calls ``post_execute``) cannot be caught there. `next_attempt` is for a script that has failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

    from airflow_provider_impala_lb.errors import StatementFailed


def forbid_retry(task: BaseOperator, context: Context, reason: str) -> None:
    """The rest of this attempt ends the task, in success or failure. The next run of the task may be retried again.

    :param task: the copy of the operator that Airflow executes (``prepare_for_execution``).
    :param context: Airflow's, of the task.
    :param reason: for the log of the failure.
    """
    if hasattr(task, "retry_policy"):  # Airflow 3.3 asks it in the process of the task
        task.retry_policy = _never(reason)
    # Airflow 3 before that: the server has decided beforehand whether a failure is to be retried.
    from_server = getattr(context["ti"], "_ti_context_from_server", None)
    if from_server is not None:
        from_server.should_retry = False
    # Airflow 2 looks at the executed copy (`_is_eligible_to_retry`).
    task.retries = 0


def next_attempt(error: StatementFailed, *, resume: bool, restartable: bool) -> tuple[bool, str]:
    """What comes after a failure. A statement that may have run is not run again unless the author said how: by
    ``resume``, which looks first, or by ``restartable``.

    :param error: of the script.
    :param resume: the script has a journal to go on by.
    :param restartable: it is safe to run it again from statement 1.
    :returns: whether Airflow may retry the task by itself; and a text for the author, with a line's end before it.
    """
    number, unknown = error.number, error.outcome == "unknown"
    may_retry = error.outcome != "user error" and error.retry and (resume or restartable or not unknown)
    if number == 1 and not unknown:
        return may_retry, ""
    if resume:
        looks = "looks whether that statement has run, and then " if unknown else ""
        return may_retry, f"\nThe next attempt {looks}goes on here: what is done is not run again."
    again = [] if number == 1 else ["statement 1, which is done"]
    if number > 2:
        again = [f"statements 1 to {number - 1}, which are done"]
    if unknown:
        again.append("the one that failed, which may have run")
    by_itself = "" if may_retry or not unknown else "The task is not retried by itself. "
    how = "" if restartable else " With resume=True it would go on where the script has stopped."
    return (
        may_retry,
        f"\n{by_itself}The next attempt begins at statement 1: it runs {', and '.join(again)}, again.{how}",
    )


def _never(reason: str) -> Any:
    from airflow.sdk import RetryDecision, RetryPolicy

    class Never(RetryPolicy):
        def evaluate(self, *_: Any, **__: Any) -> RetryDecision:
            return RetryDecision.fail(reason)

    return Never()

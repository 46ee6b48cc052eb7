"""A running task that is not to be tried again, whatever fails in it from now on.

What Airflow does after ``execute`` (it pushes the result, calls ``post_execute``) cannot be caught there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context


def forbid_retry(task: BaseOperator, context: Context, why: str) -> None:
    """The rest of this try ends the task, in success or failure. The next run of the task may be retried again.

    :param task: the copy of the operator that Airflow executes (``prepare_for_execution``).
    :param why: for the log of the failure.
    """
    if hasattr(task, "retry_policy"):  # Airflow 3.3 asks it in the process of the task
        task.retry_policy = _policy(why)
    # Airflow 3 before that: the server has told beforehand whether a failure is to be retried.
    told = getattr(context["ti"], "_ti_context_from_server", None)
    if told is not None:
        told.should_retry = False
    # Airflow 2 looks at the executed copy (`_is_eligible_to_retry`).
    task.retries = 0


def _policy(why: str) -> Any:
    from airflow.sdk import RetryDecision, RetryPolicy

    class Never(RetryPolicy):
        def evaluate(self, *_: Any, **__: Any) -> RetryDecision:
            return RetryDecision.fail(why)

    return Never()

"""A running task that is not to be retried, whatever fails in it from now on.

What Airflow does after ``execute`` (it pushes the result, calls ``post_execute``) cannot be caught there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context


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


def _never(reason: str) -> Any:
    from airflow.sdk import RetryDecision, RetryPolicy

    class Never(RetryPolicy):
        def evaluate(self, *_: Any, **__: Any) -> RetryDecision:
            return RetryDecision.fail(reason)

    return Never()

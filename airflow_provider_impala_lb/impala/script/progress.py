"""How far a script is, over all the nodes it has come to, and what is said of that."""

from __future__ import annotations

from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.script.journal import Record
from airflow_provider_impala_lb.impala.script.options import RunListener
from airflow_provider_impala_lb.impala.script.plan import ScriptDone, ScriptPlan
from airflow_provider_impala_lb.impala.script.resume import statements_before
from airflow_provider_impala_lb.impala.script.upstream import Upstream
from airflow_provider_impala_lb.impala.sql.statement import excerpt


class Moved(Exception):
    """The node is overloaded, what ran there was seen to end, and the script begins anew elsewhere, or goes on there.

    :ivar done: so many statements were done. :ivar left: what they, or the one that was interrupted, may have changed.
    """

    def __init__(self, why: str, done: int, left: Upstream | None = None) -> None:
        super().__init__(why)
        self.done, self.left = done, left


class Progress:
    """Of one run of a script.

    :param before: what was changed on other nodes, and whoever runs the script must have heard of first.
    :ivar done: what is done. :ivar so_far: the same in words, for errors.
    """

    def __init__(self, script: ScriptPlan, listener: RunListener, before: list[Upstream]) -> None:
        self.done = ScriptDone("", "", "", [], 0.0)
        self.before = before
        self.so_far = "nothing was run"
        self._script, self._resumes, self._log = script, script.options.resume, listener.logger
        self._handles = listener.handler is not None

    @property
    def nothing_done(self) -> bool:
        """But for what only holds for a session."""
        return all(each.session_only for each in self._script.classified[: len(self.done.statements)])

    def go_on_after(self, number: int, record: Record) -> None:
        """Another process has done so many statements."""
        if not number:
            return
        self.done.statements = statements_before(self._script, record, number)
        if self._handles:
            self.done.results, self.done.descriptions = [None] * number, [None] * number
        self.so_far = f"{number} of {len(self._script)} statements were done before"

    def begin_anew(self) -> None:
        """What was done is to be done again."""
        self.done = ScriptDone("", "", "", [], self.done.seconds)

    def left(self, node: str) -> None:
        """The script has left this node, or ended there."""
        if self.done.left.host == node:  # something was run here
            self._heard_of(node, self.done.left)
        if self._resumes and self.done.statements:
            self.so_far = f"{len(self.done.statements)} of {len(self._script)} statements are done"

    def refused(self, node: str, why: str) -> None:
        """The node takes nothing (more) of the script."""
        done = len(self.done.statements) if self._resumes else 0
        if done:
            self._log.warning("%s takes no more of the script after %d statements of it: %s", node, done, why)
        else:
            self._log.warning("%s cannot take the script, nothing of it was run there: %s", node, why)

    def interrupted(self, node: str, moved: Moved) -> None:
        """What ran on the node has ended."""
        self.so_far = (
            f"before that it was interrupted on {node}, where {moved.done} of its {len(self._script)} "
            "statements were done and the next one was seen to end"
        )
        goes_on = "goes on" if self._resumes else "begins anew"
        self._log.warning("%s: what ran there has ended, the script %s elsewhere", moved, goes_on)
        if moved.left is not None:
            self._heard_of(node, moved.left)

    def cannot_go_on(self, node: str, why: str) -> StatementFailed:
        """The error of a script whose session is gone, when no other node may have it."""
        number = len(self.done.statements) + 1
        statement = self._script.statements[number - 1]
        return StatementFailed(
            f"its session is gone, and no new one can be had: {why}",
            number=number,
            total=len(self._script),
            line=statement.line,
            node=node,
            query_id=None,
            outcome="not started",
            sql=excerpt(statement.sql),
        )

    def _heard_of(self, node: str, left: Upstream) -> None:
        self.before = [each for each in self.before if each.host != node] + [left]

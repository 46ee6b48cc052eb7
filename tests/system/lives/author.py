"""Who answers a question: looks at the truth, and says it by the command's own function."""

from __future__ import annotations

import re

from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.ports import JournalStore
from airflow_provider_impala_lb.impala.journal.answers import answer, finish
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.system.lives.stage import Stage
from tests.system.lives.tables import Tables, after

_NAMES = re.compile(r"[0-9a-f]{16}:[0-9a-f]{16}|lb:[0-9a-f]{16}|https?://[\w.:]+|\d+\.\d+\.\d+\.\d+:\d+|life\d+\w*|\d+")


class NoTruth(AssertionError):
    """The tables are as they can never be."""


def truth(stage: Stage, number: int, tables: Tables) -> bool:
    """Whether statement ``number`` has run, where all before it have and none behind it. A table that CREATE TABLE AS
    SELECT has made and not filled is dropped, as the author would.

    :param stage: of the life
    :param number: of the statement
    :param tables: what is there, see `Stage.tables`
    :raises NoTruth: the tables say neither
    """
    story = stage.story
    statement = story.statements[number - 1]
    if tables == after(story.before, story.statements, number):
        return True
    without = after(story.before, story.statements, number - 1)
    if tables == without:
        return False
    if statement.kind == "ctas" and tables == {**without, statement.table: {}}:
        stage.slot.cursor.execute(f"DROP TABLE {statement.table}")
        return False
    raise NoTruth(f"statement {number} in doubt, and the tables: {tables}")


def command(text: str, word: str) -> str:
    """What stands behind the key in the command that the question prints.

    :param text: of the question
    :param word: ``ran`` or ``not-run``
    """
    found = re.search(rf" ({word} \d+:[0-9a-f]+)$", text, re.MULTILINE)
    assert found is not None, text
    return found[1]


def reply(stage: Stage, words: str) -> str:
    """Say it.

    :param stage: of the life
    :param words: ``ran`` or ``not-run`` and which statement, see `command`; or ``start-over``
    :returns: what was noted
    """
    return answer(journals(stage), stage_key(stage), *words.split())


def end_journal(stage: Stage, epoch: int) -> None:
    """As the worker that a trigger's last event has woken.

    :param stage: of the life
    :param epoch: of the trigger
    """
    finish(journals(stage), stage_key(stage), epoch)


def stage_key(stage: Stage) -> str:
    """The name of its journal."""
    return parse(stage.life_config).owner_of(f"dag/{stage.story.name}/task")


def journals(stage: Stage) -> JournalStore:
    """Where its journal is."""
    return open_journals(parse(stage.life_config))


def reason(text: str) -> str:
    """A question's reason, without what differs from life to life.

    :param text: of the error
    """
    return _NAMES.sub("#", " ".join(text.split()))

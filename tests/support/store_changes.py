"""What tests do to a state or to a journal, and see of it."""

import os

from airflow_provider_impala_lb.stores.journals.document import name_of

KEY = "dag/task/run"
"""Of a journal."""


def bump(state, now):
    """A change of the state: one more pick of a node."""
    state.node("a").picks += 1
    return state.node("a").picks


def count(store):
    """How often it was bumped."""
    return store.read()[0].node("a").picks


def bump_document(document, now):
    """A change of a journal: the number in it, and one more."""
    number = int(document or b"0") + 1
    return number, b"%d" % number


def put(document):
    """A change of a journal that returns the document before."""
    return lambda old, now: (old, document)


def file_of(journals, key=KEY):
    """The path of a journal's file."""
    return os.path.join(journals.where, name_of(key))

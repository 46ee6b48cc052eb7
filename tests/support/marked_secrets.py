"""A password that nothing else looks like, and all that is said while it is used."""

import logging

import pytest

MARK = "mArk7731secret"
DIGITS = "0773110"
"""A password that YAML takes for a number."""


def leaks(text):
    return [line for line in text.splitlines() if MARK in line or MARK.lower() in line or DIGITS in line]


class Listener(logging.Handler):
    """All that is logged, with the tracebacks."""

    def __init__(self):
        super().__init__(logging.NOTSET)
        self.setFormatter(logging.Formatter())
        self.text = ""

    def emit(self, record):
        self.text += self.format(record) + repr(record.args) + "\n"


@pytest.fixture
def logged():
    listener, root = Listener(), logging.getLogger()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    yield listener
    root.setLevel(level)
    root.removeHandler(listener)

"""YAML as people mean it: a key that is there twice, or a number that YAML reads otherwise than people do, is an error.

No error shows a line of the file: it may hold a password.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow_provider_impala_lb.core.text import shown, shown_name
from airflow_provider_impala_lb.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

# YAML 1.1: 010 is octal, 8; 1:30 is sexagesimal, 90 (yaml.org/type/int.html).
_ODD_NUMBER = r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)"


def read_yaml(path: str | Path) -> Any:
    """What is in the file.

    :param path: of the file.
    :raises ConfigError: unreadable, not YAML, or not clear; names the file and the line.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line}: is not UTF-8") from None
    found, problem = _parse(text)
    if problem:
        raise ConfigError(f"{path}: {problem}")  # outside of any handler: YAML's own error quotes the file
    return found


def _parse(text: str) -> tuple[Any, str]:
    """What the text holds, and what is wrong with it or ""."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def refuse_odd(node: Any, value: str) -> None:
        if re.fullmatch(_ODD_NUMBER, node.value):
            raise _Unclear(
                f"line {node.start_mark.line + 1}: {value} is another number in YAML than it looks; write it without a "
                "leading 0 or a colon, or in quotes if it is a text"
            )

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key, value in node.value:
            name, line = key.value, key.start_mark.line + 1
            if isinstance(name, str) and key.tag != "tag:yaml.org,2002:merge":
                if name in seen:
                    raise _Unclear(
                        f"line {line}: {shown_name(name)} is there already, in line {seen[name]}; each key may be once"
                    )
                seen[name] = line
            if value.tag.endswith((":int", ":float")):
                refuse_odd(value, shown(value.value, str(name)).strip("'"))
        loader.flatten_mapping(node)
        return dict(loader.construct_mapping(node, deep=True))

    def number(loader: Any, node: Any) -> Any:
        refuse_odd(node, "a number in a list")
        as_float = node.tag.endswith(":float")
        return loader.construct_yaml_float(node) if as_float else loader.construct_yaml_int(node)

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    Loader.add_constructor("tag:yaml.org,2002:int", number)
    Loader.add_constructor("tag:yaml.org,2002:float", number)
    try:
        return yaml.load(text, Loader), ""  # noqa: S506  a SafeLoader
    except _Unclear as error:
        return None, str(error)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return None, f"is not YAML: {where}{_without_text(error)}"
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # e.g. a control character; a date, a number or a truth value by its tag that is none
        where = f"at character {error.position + 1}" if hasattr(error, "position") else "it cannot be read"
        return None, f"is not YAML: {where}"


class _Unclear(Exception):
    """It can be read in two ways."""


def _without_text(error: Any) -> str:
    """The problem, without what it quotes from the file: an alias or a tag may be a password that begins with ``*`` or
    ``!``. Names of tokens (``'<scalar>'``) and signs stay."""
    import yaml

    if not isinstance(error, (yaml.scanner.ScannerError, yaml.parser.ParserError)):
        return "an alias, a tag or a key that means nothing here; text that begins with * & or ! has to be in quotes"
    return re.sub(
        "'([^']*)'",
        lambda quoted: quoted[0] if re.fullmatch(r"<[a-z ]+>|\W", quoted[1]) else "(not shown)",
        error.problem or "it cannot be read",
    )

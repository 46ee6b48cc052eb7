"""Arrows run one way: airflow shells -> impala -> core <- stores."""

import ast
import pathlib

import pytest

import airflow_provider_impala_lb

PACKAGE = pathlib.Path(airflow_provider_impala_lb.__file__).parent
NAME = "airflow_provider_impala_lb"
FORBIDDEN = {
    "core": ("airflow", "impala", "thrift", f"{NAME}.impala", f"{NAME}.stores", f"{NAME}.hooks", f"{NAME}.operators"),
    "stores": ("airflow", "impala", "thrift", f"{NAME}.impala", f"{NAME}.hooks", f"{NAME}.operators"),
    "impala": ("airflow", f"{NAME}.hooks", f"{NAME}.operators", f"{NAME}.sandbox"),
    "sandbox": ("airflow", f"{NAME}.hooks", f"{NAME}.operators", f"{NAME}.core", f"{NAME}.stores", f"{NAME}.impala"),
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_run_one_way(folder):
    files = sorted((PACKAGE / folder).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in files
        for module in imported(path)
        for forbidden in FORBIDDEN[folder]
        if module == forbidden or module.startswith(f"{forbidden}.")
    ]
    assert not wrong

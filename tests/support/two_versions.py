"""The version of this package that runs beside the working tree during a rolling upgrade, and workers of both."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.components import lacking

FORMATS_FIXED = "23690af24e72467d85c98e2b44da0c8a407d742e"
"""The commit that fixed the formats: of the state, of a journal, of what a deferred task carries. From 0.2.0 on the one
that was released last. See CONTRIBUTING.md, "A stored format"."""
CHECKOUT = Path(__file__).parents[2]
PACKAGE = "airflow_provider_impala_lb"
VERSIONS = ("old", "new")
WORKER = CHECKOUT / "tests" / "system" / "versions" / "worker.py"


def python_of_old_version(folder: Path) -> Path:
    """The interpreter of an environment with the wheel of `FORMATS_FIXED`, and all else from this one. Nothing is
    installed but that wheel.

    :param folder: to make it in.
    """
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv is None:
        lacking("uv is not installed (pip install uv): two versions side by side are NOT tested")
    _unpack(folder / "tree")
    _run(uv, "build", "--quiet", "--wheel", "--out-dir", folder, folder / "tree")
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    _run(uv, "venv", "--quiet", "--offline", "--python", sys.executable, folder / "venv")
    _run(uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel)
    (own,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # Behind its own packages, and without what the .pth files there say: the working tree is one of them.
    (own / "zz_dependencies.pth").write_text("\n".join({sysconfig.get_path(kind) for kind in ("purelib", "platlib")}))
    found = _run(python, "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)", cwd=folder).stdout.strip()
    assert Path(found) == own / PACKAGE / "__init__.py"
    return python


def _unpack(folder: Path) -> None:
    if not (CHECKOUT / ".git").exists():
        pytest.skip("there is no .git here, as in an sdist: two versions side by side are NOT tested")
    if shutil.which("git") is None:
        lacking("git is not installed: two versions side by side are NOT tested")
    found = subprocess.run(
        ["git", "-C", str(CHECKOUT), "cat-file", "-e", f"{FORMATS_FIXED}^{{commit}}"], capture_output=True, text=True
    )
    if found.returncode:  # also where CI is set: nothing that can be installed brings the history
        pytest.skip(
            f"the history here does not hold {FORMATS_FIXED[:12]} (a shallow clone? git fetch --unshallow): two "
            f"versions side by side are NOT tested: {found.stderr.strip()}"
        )
    folder.mkdir(parents=True)
    archive = folder.with_suffix(".tar")
    _run("git", "-C", CHECKOUT, "archive", "--output", archive, FORMATS_FIXED)
    _run("tar", "-xf", archive, "-C", folder)


def _run(*command: object, **options: object) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done


class Failed(Exception):
    """What a worker met."""

    def __init__(self, kind, text):
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


class Worker:
    """A process of one version; it ends with the test."""

    def __init__(self, python, folder, environment):
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", str(python), str(WORKER)],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.file = self.ask("package")

    def send(self, do, **order):
        self.process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self.process.stdin.flush()

    def answer(self):
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise Failed(answer["error"], answer["text"])
        return answer["result"]

    def ask(self, do, **order):
        self.send(do, **order)
        return self.answer()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

"""The wheel: it holds what the program needs besides Python files, and an installation from it works elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import convc._version

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because building leaves files behind."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(repository / "convc", source / "convc", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    folder = tmp_path_factory.mktemp("wheel")
    program = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, folder], cwd=source, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_version_and_contents(wheel: Path, repository: Path) -> None:
    assert wheel.name == f"convc-{convc._version.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = [path for path in (repository / "convc").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    missing = {path.relative_to(repository).as_posix() for path in tracked} - names
    assert not missing, f"not in the wheel: {sorted(missing)}"
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_works_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    program = "import convc, pathlib; print(pathlib.Path(convc.__file__).parent); print(convc.__version__)"
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    assert shown[:2] == [str(site / "convc"), convc._version.__version__]
    command = subprocess.run(
        [site / "bin" / "convc", "--version"], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert convc._version.__version__ in command.stdout

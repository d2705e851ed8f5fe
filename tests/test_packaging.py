"""Packaging: listed folders, what `fpd --help` imports, what a wheel contains."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("data", "pipeline", "stages", "commands")
SOURCES = [path for part in PARTS for path in sorted((ROOT / part).rglob("*.py"))] + [
    ROOT / "cli.py",
    ROOT / "api.py",
]


def folders_with_code() -> set[str]:
    return {
        ".".join(["fpd", *path.parent.relative_to(ROOT).parts])
        for part in PARTS
        for path in (ROOT / part).rglob("*")
        if path.suffix in {".py", ".toml"} and "__pycache__" not in path.parts
    }


def test_every_folder_with_code_is_a_listed_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    assert listed == folders_with_code() | {"fpd"}


def test_the_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, fpd.cli; "
        "heavy = {'torch', 'zarr', 'cv2', 'numpy', 'pydantic'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the files that git does not ignore, as an installer would."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout
    if not listed:
        pytest.skip("not a git checkout, so there is no list of files to build from")
    for name in listed.decode().strip("\0").split("\0"):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_a_wheel_contains_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    package = {name for name in names if ".dist-info/" not in name}
    assert all(name.startswith("fpd/") for name in package)
    assert {f"fpd/{path.relative_to(ROOT).as_posix()}" for path in SOURCES} <= package
    recipes = "fpd/pipeline/config/recipes"
    assert {f"{recipes}/demo.toml", f"{recipes}/lsp.toml"} <= package
    templates = {path.name for path in (ROOT / "pipeline/evaluation/report/templates").iterdir()}
    assert {f"fpd/pipeline/evaluation/report/templates/{name}" for name in templates} <= package
    assert len(templates) == 3
    assert not any("tests" in name or "benchmarks" in name for name in package)
    assert any(name.endswith("LICENSE") for name in names)

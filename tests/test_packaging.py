"""The package: which folders are packages, what starts fast, what a wheel holds."""

from __future__ import annotations

import configparser
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("data", "pipeline", "stages", "commands")
SOURCES = [path for part in PARTS for path in sorted((ROOT / part).rglob("*.py"))] + [
    ROOT / "cli.py"
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


def test_help_answers_at_once() -> None:
    # What makes it quick, not how quick it is: a clock has no place in a test.
    code = (
        "import sys, fpd.cli; "
        "heavy = {'torch', 'zarr', 'cv2', 'numpy', 'pydantic'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "fpd", "--help"], check=True, capture_output=True)
    print(f"fpd --help: {time.perf_counter() - start:.3f} s")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the tracked files, as an installer would."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False
    ).stdout
    if not listed:
        pytest.skip("not a git checkout: there is no list of files to build from")
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


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    ours = {name for name in names if ".dist-info/" not in name}
    assert all(name.startswith("fpd/") for name in ours)
    assert {f"fpd/{path.relative_to(ROOT).as_posix()}" for path in SOURCES} <= ours
    assert {"fpd/pipeline/config/recipes/demo.toml", "fpd/pipeline/config/recipes/lsp.toml"} <= ours
    templates = {path.name for path in (ROOT / "pipeline/evaluation/report/templates").iterdir()}
    assert {f"fpd/pipeline/evaluation/report/templates/{name}" for name in templates} <= ours
    assert len(templates) == 3
    assert not any("tests" in name or "benchmarks" in name for name in ours)
    assert any(name.endswith("LICENSE") for name in names)

"""The benchmarks: `--help` of each, and toy runs of some of the cheapest."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
BENCHMARKS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_describes_the_benchmark_and_its_options(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = FOLDER / f"{name}.py"
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])

    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(script), run_name="__main__")

    printed = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert f"python benchmarks/{name}.py" in printed
    assert "options:" in printed


def test_every_benchmark_is_quoted_in_the_documentation() -> None:
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs").glob("*.md"))

    assert [name for name in BENCHMARKS if f"benchmarks/{name}.py" not in pages] == []


OTHER_FORMATS = ("webdataset", "streaming", "ffcv")
"""Libraries that `feed` compares with, where they are installed."""

TOY_OPTIONS = {
    "feed": ["--data=none", "--views=4", "--stored-views=2", "--batch=2", "--rounds=1"],
    "pipeline": ["--samples", "8", "--views", "1", "--epochs", "1", "--students", "1"],
    "store_scale": ["--largest", "10000"],
    "store_remote": ["--simulate", "100000"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOY_OPTIONS)
def test_toy_run_writes_results(name: str, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    command = [sys.executable, FOLDER / f"{name}.py", *TOY_OPTIONS[name], "--json", results]

    toy = subprocess.run(
        command, check=True, cwd=tmp_path, timeout=300, capture_output=True, text=True
    )

    content = json.loads(results.read_text("utf-8"))
    assert content["benchmark"] == name
    assert content["results"]
    if name == "feed":
        for module in OTHER_FORMATS:
            assert find_spec(module) or f"{module} is not installed" in toy.stdout


@pytest.mark.slow
def test_what_needs_a_gpu_can_be_rehearsed(tmp_path: Path) -> None:
    command = [sys.executable, FOLDER / "gpu.py", "--rehearse", "--parts", "cache", "paper"]

    subprocess.run([*command, "--out", tmp_path], check=True, timeout=300)

    outcomes = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["results"]
    assert {part["outcome"] for part in outcomes.values()} == {"exit status 0"}
    assert json.loads((tmp_path / "cache.json").read_text("utf-8"))["results"]["1x8"]
    paper = json.loads((tmp_path / "paper.json").read_text("utf-8"))["results"]
    assert {"teacher", "store", "labels", "both", "labels-equal-time"} <= paper.keys()


@pytest.mark.slow
def test_sweeps_are_drawn(tmp_path: Path) -> None:
    points = [{"point": "alpha=0", "pck": [0.4, 0.5]}, {"point": "alpha=1", "pck": []}]
    (tmp_path / "sweep.json").write_text(json.dumps({"name": "alpha", "points": points}), "utf-8")
    output = tmp_path / "sweeps.png"

    command = [sys.executable, FOLDER / "experiments.py", tmp_path, "-o", output]
    subprocess.run(command, check=True, timeout=300)

    assert output.read_bytes().startswith(b"\x89PNG")

"""`fpd profile`: size, memory and speed of models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from fpd.cli import main
from fpd.pipeline.models.complexity import count
from fpd.pipeline.models.settings import HourglassSettings
from fpd.pipeline.workdir import WorkDir


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["profile", *map(str, arguments)])


@pytest.fixture(autouse=True)
def _few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpd.pipeline.runtime.timing.ROUNDS", 1)
    monkeypatch.setattr("fpd.pipeline.runtime.timing.ROUND_S", 1e-3)


@pytest.fixture
def two_models(work: WorkDir) -> WorkDir:
    shutil.copytree(work.root / "teacher", work.root / "other")
    return work


def test_numbers_of_all_models(two_models: WorkDir, tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    result = fpd("-w", two_models.root, "--batch", "3", "--json", out)
    assert result.exit_code == 0, result.output
    assert f"written to {out}" in result.output
    report = json.loads(out.read_text())
    assert list(report["models"]) == ["teacher", "other"]
    assert (report["device"], report["threads"]) == ("cpu", torch.get_num_threads())
    row = report["models"]["teacher"]
    expected = count(HourglassSettings(stages=1, channels=8, stem="ports"), 14, 64)
    assert (row["parameters"], row["gmacs"]) == expected
    weights = load_file(two_models.teacher.weights).values()
    assert row["weights_bytes"] == sum(t.numel() * t.element_size() for t in weights)
    assert list(row["batches"]) == ["1", "3"]
    one, three = row["batches"]["1"], row["batches"]["3"]
    for times in (one, three):
        assert 0 < times["lower_ms"] <= times["median_ms"] <= times["upper_ms"]
    # Three crops need three times the tensors of one, except for the few without a batch.
    pass_bytes = [times["peak_bytes"] - row["weights_bytes"] for times in (one, three)]
    assert pass_bytes[1] / pass_bytes[0] == pytest.approx(3, rel=0.02)
    # The stem's first convolution alone: its normalized input, and 2 channels at half the size.
    assert pass_bytes[0] >= 4 * (3 * 64 * 64 + 2 * 32 * 32)


def test_a_table_of_the_models_that_are_named(two_models: WorkDir) -> None:
    result = fpd("-w", two_models.root, "--name", "other", "--batch", "1")
    assert result.exit_code == 0, result.output
    assert "on cpu, 1 thread: from crops to joints" in result.output
    assert "other" in result.output and "teacher" not in result.output


def test_wrong_names_and_directories_are_named(work: WorkDir, tmp_path: Path) -> None:
    for arguments, part in (
        (("-w", work.root, "--name", "x"), "no finished model 'x'"),
        (("-w", tmp_path / "none"), "fpd run all"),
    ):
        result = fpd(*arguments)
        assert result.exit_code == 1 and part in result.output
        assert isinstance(result.exception, SystemExit)

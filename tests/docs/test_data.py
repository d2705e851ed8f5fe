"""docs/data.md is true: its script writes a file that its command reads."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fpd.cli import main

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def test_labels_of_ones_own_become_a_file_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = DOCS.read_text("utf-8").split("### Another format")[1].split("\n### ")[0]
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (command,) = re.findall(r"```console\n\$ fpd (.*?)```", section, re.DOTALL)
    (tmp_path / "flies" / "images").mkdir(parents=True)
    for number, name in enumerate(("a.jpg", "b.jpg")):
        pixels = np.full((120, 200, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "flies" / "images" / name)
    monkeypatch.chdir(tmp_path / "flies")
    exec(script, {})
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, shlex.split(command.replace("\\\n", " ")))
    assert result.exit_code == 0, result.output
    assert "a flip exchanges left wing/right wing; it keeps head" in result.output
    assert "no problems" in result.output
    kept = [int(count) for count in re.findall(r"labels\.json, (\d) kept", result.output)]
    assert sum(kept) == 3  # in the two splits together

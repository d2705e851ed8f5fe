"""docs/deploying.md is true: its script finds what `fpd predict` finds."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fpd.cli import main
from fpd.data.readers.synthetic.people import synthetic_samples

DOCS = Path(__file__).parents[2] / "docs" / "deploying.md"
IMPORTS = {"cv2", "numpy", "onnxruntime"}


def script() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    return block


@pytest.mark.parametrize(
    ("box", "reduction"),
    [
        ((40, 20, 45, 50), 1),
        ((40, 20, 120, 160), 2),
        ((40, 20, 200, 250), 4),
        ((9, 5, 400, 420), 8),
    ],
)
def test_the_script_finds_what_predict_finds(
    box: tuple[int, ...],
    reduction: int,
    toy_work: Path,
    toy_onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where predict reduces a JPEG while it decodes it."""
    assert set(re.findall(r"^import (\w+)", script(), re.MULTILINE)) == IMPORTS
    assert "from " not in script().replace("# ", "")
    pixels, _ = synthetic_samples("test", 1).images.read(0, 1.0)
    Image.fromarray(pixels).resize((611, 603)).save(tmp_path / "photo.jpg", quality=95)
    shutil.copy(toy_onnx, tmp_path / "student.onnx")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    code, count = re.subn("x, y, w, h = .*", f"x, y, w, h = {box}", script())
    assert count == 1
    exec(code, found)
    assert found["r"] == reduction
    arguments = ["predict", "photo.jpg", "-w", str(toy_work), "--name", "teacher"]
    box_text = ",".join(map(str, box))
    result = CliRunner().invoke(main, [*arguments, "--box", box_text, "-o", "out"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    expected = np.array(row["keypoints"]).reshape(-1, 3)
    np.testing.assert_allclose(found["joints"], expected[:, :2], atol=0.02)
    np.testing.assert_allclose(found["peaks"][0], expected[:, 2], atol=1e-3)


def test_the_numbers_of_the_text_are_those_of_the_code() -> None:
    from fpd.data.limits import MIN_SCORE
    from fpd.pipeline.evaluation.overlay import MIN_PEAK
    from fpd.pipeline.models.export.parity import BATCHES, HEATMAP_TOLERANCE, JOINT_TOLERANCE_PX
    from fpd.pipeline.prediction.people import BOX_MARGIN
    from fpd.stages.export import CALIBRATION_CROPS, COMPARED_VIEWS

    text = " ".join(DOCS.read_text("utf-8").split())
    assert f"A square {BOX_MARGIN:g} times" in text and f"1 / {BOX_MARGIN}" not in text
    assert f"within {HEATMAP_TOLERANCE:.0e}".replace("e-04", "e-4") in text
    assert f"joints within {JOINT_TOLERANCE_PX:g} pixels" in text
    assert f"for {COMPARED_VIEWS} views" in text and f"up to {CALIBRATION_CROPS} crops" in text
    assert "batches of {}, {} and {}".format(*BATCHES) in text
    assert f"peak is below {MIN_PEAK:g}" in text
    assert f"a score below {MIN_SCORE:g} (`--min-score`)" in text

"""Published hourglasses: files as three projects write them, against an independent forward pass.

The network is bearpaw's HourglassNet, from its description: pre-activated bottlenecks, a stem with
a 7 x 7 convolution, residual blocks up to a quarter, a half and all of the channels with a pooling
in between, nearest upsampling, and a list of stages.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from fpd.data.skeletons import MPII
from fpd.pipeline.models.hourglass import Hourglass
from fpd.pipeline.models.settings import HourglassSettings
from fpd.pipeline.teachers.hourglass import LAYOUTS, load

State = dict[str, Tensor]
JOINTS, DEPTH = 16, 2


@pytest.fixture(scope="module")
def state() -> State:
    """A tiny network's tensors: two stages, two blocks, depth 2; statistics as if trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = HourglassSettings(stages=2, channels=16, stem="ports", blocks=2, depth=DEPTH)
        network = Hourglass(settings, JOINTS)
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                spread = torch.rand_like(value)
                value.copy_(spread + 0.5 if name.endswith("running_var") else spread - 0.5)
    return network.state_dict()


class Reference:
    """The forward pass with plain functions, by the names in a state dict."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv(self, name: str, x: Tensor, **options: int) -> Tensor:
        return functional.conv2d(
            x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **options
        )

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            self.state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def bottleneck(self, name: str, x: Tensor) -> Tensor:
        y = self.conv(f"{name}.conv1", self.norm(f"{name}.bn1", x).relu())
        y = self.conv(f"{name}.conv2", self.norm(f"{name}.bn2", y).relu(), padding=1)
        y = self.conv(f"{name}.conv3", self.norm(f"{name}.bn3", y).relu())
        wider = f"{name}.downsample.0"
        return y + (self.conv(wider, x) if f"{wider}.weight" in self.state else x)

    def residual(self, name: str, x: Tensor) -> Tensor:
        block = 0
        while f"{name}.{block}.conv1.weight" in self.state:
            x = self.bottleneck(f"{name}.{block}", x)
            block += 1
        assert block
        return x

    def hourglass(self, name: str, level: int, x: Tensor) -> Tensor:
        up = self.residual(f"{name}.{level - 1}.0", x)
        low = self.residual(f"{name}.{level - 1}.1", functional.max_pool2d(x, 2, stride=2))
        low = (
            self.hourglass(name, level - 1, low) if level > 1 else self.residual(f"{name}.0.3", low)
        )
        low = self.residual(f"{name}.{level - 1}.2", low)
        return up + low.repeat_interleave(2, -1).repeat_interleave(2, -2)

    def __call__(self, x: Tensor) -> Tensor:
        x = self.norm("bn1", self.conv("conv1", x, stride=2, padding=3)).relu()
        x = functional.max_pool2d(self.residual("layer1", x), 2, stride=2)
        x = self.residual("layer3", self.residual("layer2", x))
        stage = 0
        while True:
            y = self.residual(f"res.{stage}", self.hourglass(f"hg.{stage}.hg", DEPTH, x))
            y = self.norm(f"fc.{stage}.1", self.conv(f"fc.{stage}.0", y)).relu()
            score = self.conv(f"score.{stage}", y)
            if f"fc_.{stage}.weight" not in self.state:
                return score
            x = x + self.conv(f"fc_.{stage}", y) + self.conv(f"score_.{stage}", score)
            stage += 1


def data_parallel(state: State) -> OrderedDict[str, Tensor]:
    """With the names that torch.nn.DataParallel gives tensors."""
    return OrderedDict((f"module.{name}", value) for name, value in state.items())


def without_counters(state: State) -> State:
    """As PyTorch 0.3 saved it."""
    return {name: v for name, v in state.items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def files(state: State, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files as each project writes them, by name. Not to be written to."""
    folder = tmp_path_factory.mktemp("files")
    contents: dict[str, Any] = {
        "ilovepose.pth": {  # tools/fpd_train.py
            "epoch": 140,
            "model": "hourglass",
            "state_dict": data_parallel(state),
            "best_state_dict": OrderedDict(state),
            "perf": 90.5,
            "optimizer": {"state": {}, "param_groups": [{"lr": 2.5e-4, "params": [0, 1]}]},
        },
        "ilovepose_final_state.pth": OrderedDict(state),
        "pytorch-pose.pth.tar": {  # example/main.py
            "epoch": 186,
            "arch": "hg",
            "state_dict": data_parallel(without_counters(state)),
            "best_acc": torch.tensor(0.88),
            "optimizer": {"state": {}, "param_groups": []},
        },
        "anibali.pth": OrderedDict(state),
    }
    for name, content in contents.items():
        torch.save(content, folder / name)
    old = folder / "pytorch-pose-old.pth.tar"
    torch.save(contents["pytorch-pose.pth.tar"], old, _use_new_zipfile_serialization=False)
    save_file(state, folder / "converted.safetensors")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("file", "layout", "project"),
    [
        ("ilovepose.pth", None, "ilovepose"),
        ("ilovepose_final_state.pth", "ilovepose", "ilovepose"),
        ("pytorch-pose.pth.tar", None, "pytorch-pose"),
        ("pytorch-pose-old.pth.tar", None, "pytorch-pose"),
        ("anibali.pth", "anibali", "anibali"),
        ("converted.safetensors", "pytorch-pose", "pytorch-pose"),
    ],
)
def test_each_projects_files_give_their_networks_heatmaps(
    state: State, files: dict[str, Path], file: str, layout: str | None, project: str
) -> None:
    teacher = load(files[file], layout)
    crops = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        heatmaps, expected = teacher(crops), Reference(state)(crops)
    assert expected.std() > 0.1
    torch.testing.assert_close(
        heatmaps, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
    )
    assert teacher.spec == LAYOUTS[project]


def test_the_authors_layout_is_bgr_with_statistics_in_rgb_order() -> None:
    spec = LAYOUTS["ilovepose"]
    assert spec.channels == "bgr"
    assert spec.mean_rgb[::-1] == (0.485, 0.456, 0.406)
    assert spec.std_rgb[::-1] == (0.229, 0.224, 0.225)
    assert spec.joints == MPII.joints


def test_a_file_of_unknown_layout_is_refused(files: dict[str, Path]) -> None:
    path = files["anibali.pth"]
    with pytest.raises(ValueError, match=f"one of ilovepose:{path}, pytorch-pose:{path}"):
        load(path, None)


def test_a_spec_beside_the_file_takes_precedence(files: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(files["ilovepose.pth"], tmp_path))
    joints = [f"joint {k}" for k in range(JOINTS)]
    spec_path = path.with_name("ilovepose.pth.json")
    spec_path.write_text(json.dumps({"input": [384, 288], "joints": joints, "sigma_px": 3}))
    spec = load(path, None).spec
    assert (spec.input, spec.joints, spec.channels) == ((384, 288), tuple(joints), "rgb")
    spec_path.write_text(json.dumps({"input": [384, 288], "joints": joints[:-1]}))
    with pytest.raises(ValueError, match="names of 16 joints, found 15"):
        load(path, None)
    spec_path.write_text('{"input": [384, 288], "joints": ["a"], "color": 1}')
    with pytest.raises(ValueError, match="color: Extra inputs"):
        load(path, None)


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.target,)


def test_a_file_that_needs_unpickling_is_refused_and_not_run(state: State, tmp_path: Path) -> None:
    path, touched = tmp_path / "evil.pth", tmp_path / "touched"
    torch.save({"state_dict": state, "extra": Payload(touched)}, path)
    with pytest.raises(ValueError, match=r"plain tensors .*\.safetensors .*docs/teachers\.md"):
        load(path, "ilovepose")
    assert not touched.exists()


def test_numpy_scalars_need_unpickling_too(state: State, tmp_path: Path) -> None:
    path = tmp_path / "numpy.pth"
    torch.save({"state_dict": state, "perf": np.float64(90.5)}, path)
    with pytest.raises(ValueError, match="cannot be read as plain tensors"):
        load(path, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"conv1.weight": s["conv1.weight"]}, "1 tensors of another network"),
        (lambda s: s | {"extra": torch.zeros(1)}, r"extra of shape none .*found \(1,\)"),
        (lambda s: {k: v for k, v in s.items() if k != "fc_.0.bias"}, r"fc_\.0\.bias of shape"),
        (lambda s: s | {"layer2.0.bn1.bias": torch.zeros(7)}, r"layer2\.0\.bn1\.bias of shape"),
        # Many more stages than the file has tensors for: refused by shape, nothing is allocated.
        (
            lambda s: s | {f"score.{i}.weight": torch.zeros(16, 16, 1, 1) for i in range(16)},
            "of shape",
        ),
        (
            lambda s: s | {f"score.{i}.weight": torch.zeros(16, 16, 1, 1) for i in range(400)},
            "stages",
        ),
    ],
)
def test_other_networks_are_refused(
    state: State, tmp_path: Path, change: Any, message: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_file(change(state), path)
    with pytest.raises(ValueError, match=message):
        load(path, "anibali")


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpd.pipeline.teachers.hourglass.MAX_FILE_BYTES", 1 << 20)
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data/0", bytes(1 << 21))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        load(path, "anibali")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.pth"
    path.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(ValueError, match="cannot be read as plain tensors"):
        load(path, "anibali")

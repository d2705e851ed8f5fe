"""Networks with a timm backbone; tests of real backbones are skipped where timm is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from fpd.cli import main
from fpd.pipeline.config.overrides import merge
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.models import simple_baseline
from fpd.pipeline.models.complexity import count
from fpd.pipeline.models.networks import parse_model
from fpd.pipeline.models.settings import HourglassSettings, TimmSettings
from fpd.pipeline.runtime.files import write_sealed_json
from fpd.pipeline.workdir import WorkDir
from fpd.stages import teacher

NAMES = ("resnet18", "mobilenetv3_small_050")


def timm_error() -> str | None:
    """Why timm cannot be imported; None: it can."""
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:  # torchvision was built for another torch
        return f"timm: {error}"
    return None


needs_timm = pytest.mark.skipif(timm_error() is not None, reason=str(timm_error()))


class Features(nn.Module):
    """A stand-in for every timm backbone: feature maps with strides of 4 and 32."""

    def __init__(self, name: str, *, features_only: bool, pretrained: bool) -> None:
        super().__init__()
        assert name in NAMES and features_only and not pretrained
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 7, stride=4, padding=3), nn.ReLU(), nn.Conv2d(4, 8, 8, stride=8)
        )
        self.feature_info = SimpleNamespace(reduction=lambda: [4, 32], channels=lambda: [4, 8])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first = self.layers[:2](x)
        return [first, self.layers[2](first)]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for timm with a few names, all of one small network."""
    listed = SimpleNamespace(
        is_model=NAMES.__contains__, list_models=lambda _: list(NAMES), create_model=Features
    )
    monkeypatch.setitem(sys.modules, "timm", listed)  # type: ignore[arg-type]
    simple_baseline.check_heatmaps.cache_clear()


@pytest.fixture(params=["stub", pytest.param("timm", marks=needs_timm)])
def either(request: pytest.FixtureRequest) -> str:
    """The stub, and timm itself if it is installed; which of them."""
    if request.param == "stub":
        request.getfixturevalue("stub")
    simple_baseline.check_heatmaps.cache_clear()
    return str(request.param)


def recipe_with(*changes: str) -> Recipe:
    return apply_overrides({"geometry": {"crop_px": 64}}, changes)


def test_the_default_kind_is_an_hourglass() -> None:
    assert parse_model({"stages": 2}) == HourglassSettings(stages=2)
    assert recipe_with("student.model.stages=2").student.model == HourglassSettings(stages=2)


def test_another_kind_of_network_replaces_the_settings(stub: None) -> None:
    recipe = recipe_with("student.model.name=timm", "student.model.backbone=resnet18")
    assert recipe.student.model == TimmSettings(name="timm", backbone="resnet18")
    base: dict[str, Any] = {"model": {"name": "hourglass", "stages": 4}, "epochs": 3}
    changes = {"model": {"name": "timm", "backbone": "resnet18"}}
    assert merge(base, changes) == {"epochs": 3, **changes}
    assert merge(base, {"model": {"channels": 8}})["model"]["stages"] == 4
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("student.model.stages=0", r"^student\.model\.stages: "),
        ("student.model.color=1", r"^student\.model\.color: "),
        (
            "student.model={name='timm',backbone='resnet18',stages=1}",
            r"^student\.model\.stages: ",
        ),
        ("student.model={name='timm',backbone='vgg'}", "timm has no vgg: expected resnet18, "),
        ("student.model={name='timm',backbone='hf_hub:a/b'}", r"^student\.model\.backbone: "),
        ("student.model.name=hrnet", "hrnet"),
    ],
)
def test_invalid_settings_are_refused_by_key(stub: None, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_with(change)


def test_the_crop_size_must_be_a_multiple_of_32(stub: None) -> None:
    with pytest.raises(ValueError, match="multiple of 32 for a timm network, got 80"):
        apply_overrides(
            {"geometry": {"crop_px": 80}, "teacher": {"model": {"depth": 2}}},
            [
                "student.model={name='timm',backbone='resnet18'}",
            ],
        )
    settings = TimmSettings(name="timm", backbone="resnet18")
    assert (settings.min_batch_size(32), settings.min_batch_size(64)) == (2, 1)


class Fixed(Features):
    """Accepts one input size, as most attention networks do."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        assert x.shape[2] == 224, f"input height ({x.shape[2]}) doesn't match model (224)"
        return super().forward(x)


class ChannelsLast(Features):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [feature.permute(0, 2, 3, 1) for feature in super().forward(x)]


class Dilated(Features):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [nn.functional.interpolate(f, scale_factor=2.0) for f in super().forward(x)]


class Untagged(Features):
    def __init__(self, name: str, **_: Any) -> None:
        raise RuntimeError(f"Invalid pretrained tag (foo) for {name}.\nAnd more.")


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Fixed, r"input height \(64\) doesn't match model \(224\)"),
        (ChannelsLast, r".+"),
        (Dilated, r"its heatmaps would be \(32, 32\)"),
        (Untagged, r"Invalid pretrained tag \(foo\) for resnet18"),
    ],
)
def test_backbones_that_produce_no_heatmaps_are_refused_up_front(
    stub: None, monkeypatch: pytest.MonkeyPatch, network: type[Features], reason: str
) -> None:
    monkeypatch.setattr(sys.modules["timm"], "create_model", network)
    simple_baseline.check_heatmaps.cache_clear()
    message = rf"timm's resnet18 produces no heatmaps .*64 x 64 pixels \({reason}\)"
    with pytest.raises(ValueError, match=message):
        recipe_with("student.model={name='timm',backbone='resnet18'}")


@needs_timm
@pytest.mark.parametrize(
    "backbone",
    ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mambaout_femto", "resnet18.foo"],
)
def test_real_backbones_without_heatmaps_are_refused(backbone: str) -> None:
    with pytest.raises(ValueError, match=rf"timm's {backbone} produces no heatmaps"):
        recipe_with(f"student.model={{name='timm',backbone='{backbone}'}}")


def test_a_missing_timm_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"expected timm, .*`pip install '[a-z-]*\[timm\]'`"):
        recipe_with("student.model={name='timm',backbone='resnet18'}")


@needs_timm
@pytest.mark.parametrize("backbone", NAMES)
def test_heatmaps_have_a_stride_of_4(backbone: str) -> None:
    network = TimmSettings(name="timm", backbone=backbone, channels=16).build(5).eval()
    with torch.no_grad():
        [maps] = network(torch.rand(2, 3, 64, 96))
    assert maps.shape == (2, 5, 16, 24)
    assert maps.abs().max() < 0.1  # initial heatmaps are near zero


@needs_timm
def test_the_papers_resnet_50_has_its_size() -> None:
    """34.0 M parameters (HRNet's Table 1); 4.09 GMACs of ResNet-50 at 224 x 224, plus the head's.

    The 8.9 GFLOPs of that table, at 256 x 192, count deconvolutions four times too high.
    """
    parameters, gmacs = count(TimmSettings(name="timm", backbone="resnet50"), 17, 256)
    assert parameters / 1e6 == pytest.approx(34.0, abs=0.05)
    deconvolutions = 16 * 256 * (8**2 * 2048 + 16**2 * 256 + 32**2 * 256)
    head = (deconvolutions + 64**2 * 256 * 17) / 1e9
    assert gmacs == pytest.approx(4.09 * (256 / 224) ** 2 + head, rel=0.01)


@needs_timm
def test_a_sigmoid_output_is_within_0_and_1() -> None:
    settings = TimmSettings(name="timm", backbone="resnet18", channels=16, output="sigmoid")
    with torch.no_grad():
        [maps] = settings.build(3).eval()(torch.rand(1, 3, 64, 64))
    assert 0 < maps.min() <= maps.max() < 0.1


def fpd(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_all_commands_work_with_timm_networks(
    either: str, tmp_path: Path, toy_recipe: Recipe
) -> None:
    """The four stages, then profiling, prediction and export."""
    work = WorkDir(tmp_path / "work")
    work.create()
    recipe = apply_overrides(
        toy_recipe.model_dump(mode="json"),
        [
            "teacher.model={name='timm',backbone='resnet18',channels=16}",
            "student.model={name='timm',backbone='mobilenetv3_small_050',channels=8}",
        ],
    )
    write_sealed_json(work.kept_recipe, recipe.model_dump(mode="json"))
    fpd("run", "teacher", "-w", work.root)
    fpd("cache-heatmaps", "-w", work.root)
    fpd("run", "student", "-w", work.root)
    assert "mobilenetv3_small_050" in work.student("student").record_path.read_text()
    assert "student" in fpd("evaluate", "-w", work.root)
    report = json.loads((work.evaluation / "report.json").read_text())
    assert report["models"]["teacher"]["parameters"] > report["models"]["student"]["parameters"]
    assert "student" in fpd("profile", "-w", work.root)
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((80, 60, 3), 128, np.uint8))
    fpd("predict", tmp_path / "gray.png", "-w", work.root, "--out", tmp_path / "predicted")
    kind = "torch-export" if either == "stub" else "onnx"  # which takes three times as long
    assert "heatmaps differ by at most" in fpd("export", "-w", work.root, "--format", kind)


# `start` loads pretrained weights, `build` does not: loading a finished model needs no download.
PRETRAINED = """
import sys, timm, torch
from safetensors.torch import save_file
from fpd.pipeline.models.simple_baseline import TimmSettings
torch.manual_seed(1)
kept = timm.create_model("resnet18").state_dict()
save_file(kept, sys.argv[1])
settings = TimmSettings(name="timm", backbone="resnet18", channels=16, pretrained=True)
loaded = settings.start(3).backbone.state_dict()
assert loaded and all(torch.equal(kept[name], tensor) for name, tensor in loaded.items())
other = settings.build(3).backbone.state_dict()
assert not torch.equal(kept["conv1.weight"], other["conv1.weight"])
"""


@needs_timm
@pytest.mark.slow
def test_a_pretrained_backbone_is_read_from_the_hubs_cache(tmp_path: Path) -> None:
    """Offline, from a cache in the Hugging Face hub's layout."""
    repository = tmp_path / "hub" / "models--timm--resnet18.a1_in1k"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    weights = repository / "snapshots" / commit / "model.safetensors"
    weights.parent.mkdir(parents=True)
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", PRETRAINED, weights], env=env, check=True)


def test_a_resumed_run_does_not_load_pretrained_weights(
    stub: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy_recipe: Recipe
) -> None:
    pretrained_flags = []

    def create(name: str, *, features_only: bool, pretrained: bool) -> Features:
        pretrained_flags.append(pretrained)
        return Features(name, features_only=features_only, pretrained=False)

    monkeypatch.setattr(sys.modules["timm"], "create_model", create)
    settings = ["teacher.model={name='timm',backbone='resnet18',channels=8,pretrained=true}"]
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), settings)
    work = WorkDir(tmp_path)
    teacher.run(work, recipe, torch.device("cpu"))
    assert pretrained_flags.count(True) == 1
    work.teacher.record_path.unlink()  # as if interrupted just before the end
    teacher.run(work, recipe, torch.device("cpu"))
    assert pretrained_flags.count(True) == 1


def test_missing_pretrained_weights_are_refused(
    stub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(name: str, **_: Any) -> None:
        raise OSError("no route to the hub")

    monkeypatch.setattr(sys.modules["timm"], "create_model", unreachable)
    settings = TimmSettings(name="timm", backbone="resnet18", pretrained=True)
    with pytest.raises(ValueError, match=r"timm's weights of resnet18, .*\(no route to the hub\)"):
        settings.start(3)
    with pytest.raises(OSError, match=r"^no route"):  # unrelated to pretrained weights
        settings.build(3)

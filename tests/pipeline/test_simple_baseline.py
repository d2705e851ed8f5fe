"""Networks of timm: settings anywhere; the networks themselves where timm can be imported."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fpd.pipeline.models import HourglassSettings, TimmSettings, parse_model
from fpd.pipeline.models.cost import count
from fpd.pipeline.recipe import Recipe, apply_overrides, merge

NAMES = ("resnet18", "mobilenetv3_small_050")


def usable() -> str | None:
    """Why timm cannot be used here; None: it can."""
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:  # of a torchvision that is not of this torch
        return f"timm: {error}"
    return None


needs_timm = pytest.mark.skipif(usable() is not None, reason=str(usable()))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timm that knows names, and nothing else."""
    listed = SimpleNamespace(is_model=NAMES.__contains__, list_models=lambda _: list(NAMES))
    monkeypatch.setitem(sys.modules, "timm", listed)  # type: ignore[arg-type]


def chosen(*changes: str) -> Recipe:
    return apply_overrides({"geometry": {"crop_px": 64}}, changes)


def test_a_recipe_without_a_name_means_an_hourglass() -> None:
    assert parse_model({"stages": 2}) == HourglassSettings(stages=2)
    assert chosen("student.model.stages=2").student.model == HourglassSettings(stages=2)


def test_a_network_of_another_kind_replaces_the_one_before(stub: None) -> None:
    recipe = chosen("student.model.name=timm", "student.model.backbone=resnet18")
    assert recipe.student.model == TimmSettings(name="timm", backbone="resnet18")
    base: dict[str, Any] = {"model": {"name": "hourglass", "stages": 4}, "epochs": 3}
    changes = {"model": {"name": "timm", "backbone": "resnet18"}}
    assert merge(base, changes) == {"epochs": 3, **changes}
    assert merge(base, {"model": {"channels": 8}})["model"]["stages"] == 4
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("student.model.stages=0", r"^student\.model\.stages: "),
        ("student.model.colour=1", r"^student\.model\.colour: there is no such setting"),
        (
            "student.model={name='timm',backbone='resnet18',stages=1}",
            r"^student\.model\.stages: th",
        ),
        ("student.model={name='timm',backbone='vgg'}", "timm has no vgg: expected resnet18, "),
        ("student.model={name='timm',backbone='hf_hub:a/b'}", r"^student\.model\.backbone: "),
        ("student.model.name=hrnet", "hrnet"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(stub: None, change: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        chosen(change)


def test_crops_must_fit(stub: None) -> None:
    with pytest.raises(ValueError, match="multiple of 32 for a timm network, got 80"):
        apply_overrides(
            {"geometry": {"crop_px": 80}, "teacher": {"model": {"depth": 2}}},
            [
                "student.model={name='timm',backbone='resnet18'}",
            ],
        )
    settings = TimmSettings(name="timm", backbone="resnet18")
    assert (settings.smallest_batch(32), settings.smallest_batch(64)) == (2, 1)


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"expected timm, .* pip install -e '\.\[timm\]'"):
        chosen("student.model={name='timm',backbone='resnet18'}")


@needs_timm
@pytest.mark.parametrize("backbone", NAMES)
def test_maps_have_a_quarter_of_the_crops_side(backbone: str) -> None:
    network = TimmSettings(name="timm", backbone=backbone, channels=16).build(5).eval()
    with torch.no_grad():
        [maps] = network(torch.rand(2, 3, 64, 96))
    assert maps.shape == (2, 5, 16, 24)
    assert maps.abs().max() < 0.1  # a fresh network's answer is next to zero


@needs_timm
def test_the_papers_resnet_50_has_its_size() -> None:
    """34.0 M parameters (HRNet's Table 1); ResNet-50's 4.09 GMACs at 224 x 224, and the head's.

    The 8.9 of that table, at 256 x 192, count a deconvolution by its output, four times too often.
    """
    parameters, gmacs = count(TimmSettings(name="timm", backbone="resnet50"), 17, 256)
    assert parameters / 1e6 == pytest.approx(34.0, abs=0.05)
    deconvolutions = 16 * 256 * (8**2 * 2048 + 16**2 * 256 + 32**2 * 256)
    head = (deconvolutions + 64**2 * 256 * 17) / 1e9
    assert gmacs == pytest.approx(4.09 * (256 / 224) ** 2 + head, rel=0.01)


@needs_timm
def test_probabilities_lie_within_0_and_1() -> None:
    settings = TimmSettings(name="timm", backbone="resnet18", channels=16, output="sigmoid")
    with torch.no_grad():
        [maps] = settings.build(3).eval()(torch.rand(1, 3, 64, 64))
    assert 0 < maps.min() <= maps.max() < 0.1

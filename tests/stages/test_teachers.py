"""Each kind of teacher from elsewhere, from the cache to the scores, by the commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import Tensor, nn

from fpd.cli import main
from fpd.data.skeletons import LSP, MPII
from fpd.pipeline.caching.worker import make as make_one
from fpd.pipeline.caching.worker import make_job
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.models.hourglass import Hourglass, HourglassSettings
from fpd.pipeline.runtime.dask_cluster import TaskFailed, Workers
from fpd.pipeline.runtime.files import write_json
from fpd.pipeline.store import files_at, read_heatmaps, read_manifest
from fpd.pipeline.teachers import TeacherSpec, compatibility_warnings
from fpd.pipeline.workdir import WorkDir

# COCO's body: LSP's neck and head top are not among them.
COCO_BODY = tuple(
    f"{side}_{joint}"
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
)

MODULE = '''
"""A teacher in ten lines."""
import torch
from fpd.pipeline.teachers import TeacherSpec

class Brightness:
    spec = TeacherSpec(input=(32, 32), joints=("neck", "head top"), stride_px=2)
    digest = "brightness, version 1"

    def __call__(self, crops):
        gray = torch.nn.functional.avg_pool2d(crops.mean(1, keepdim=True), 2)
        return torch.cat([gray, -gray], dim=1).sigmoid()
'''


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def hourglass(folder: Path, toy_work: Path) -> list[str]:
    torch.manual_seed(0)
    network = Hourglass(HourglassSettings(stages=1, channels=8, stem="ports"), MPII.num_joints)
    nn.init.ones_(network.score[0].bias)  # type: ignore[arg-type]
    save_file(network.state_dict(), folder / "hg.safetensors")
    spec = TeacherSpec(input=(64, 64), joints=MPII.joints)
    (folder / "hg.safetensors.json").write_text(spec.model_dump_json())
    return ["hg.safetensors"]


def vitpose(folder: Path, toy_work: Path) -> list[str]:
    transformers = pytest.importorskip("transformers", reason="ViTPose needs transformers")
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48], hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    backbone.out_indices = [1]
    config = transformers.VitPoseConfig(
        backbone_config=backbone, id2label=dict(enumerate(COCO_BODY)), initializer_range=1.0
    )
    torch.manual_seed(0)
    transformers.VitPoseForPoseEstimation(config).save_pretrained(folder / "vitpose")
    return ["vitpose"]


def exported(folder: Path, toy_work: Path) -> list[str]:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, len(COCO_BODY), 7, 4, 3)

        def forward(self, crops: Tensor) -> Tensor:
            return torch.sigmoid(self.conv(crops))

    torch.manual_seed(0)
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Small().eval(), (torch.rand(2, 3, 64, 48),), dynamic_shapes=batch)
    torch.export.save(program, folder / "model.pt2")
    (folder / "model.pt2.json").write_text(
        TeacherSpec(input=(64, 48), joints=COCO_BODY).model_dump_json()
    )
    return ["model.pt2"]


def python(folder: Path, toy_work: Path) -> list[str]:
    (folder / "brightness.py").write_text(MODULE)
    return ["brightness:Brightness"]


def other_run(folder: Path, toy_work: Path) -> list[str]:
    return [str(toy_work / "teacher")]


def ensemble(folder: Path, toy_work: Path) -> list[str]:
    return [*exported(folder, toy_work), *python(folder, toy_work)]


Make = Callable[[Path, Path], list[str]]


@pytest.fixture
def place(tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> WorkDir:
    """A work directory with a recipe and nothing else, in the current directory."""
    monkeypatch.chdir(tmp_path)
    work = WorkDir(Path("work"))
    work.create()
    recipe = apply_overrides(
        toy_recipe.model_dump(mode="json"),
        ["store.flip_averaged=true", "store.views=1", "student.epochs=1"],
    )
    write_json(work.kept_recipe, recipe.model_dump(mode="json"))
    return work


@pytest.mark.parametrize(
    ("make", "kinds", "untaught"),
    [
        (hourglass, ["hourglass"], []),
        (vitpose, ["vitpose"], ["neck", "head top"]),
        (exported, ["exported"], ["neck", "head top"]),
        (python, ["python"], list(LSP.joints[:12])),
        (other_run, ["folder"], []),
        (ensemble, ["exported", "python"], []),
    ],
)
def test_from_the_cache_to_the_scores(
    place: WorkDir, toy_work: Path, make: Make, kinds: list[str], untaught: list[str]
) -> None:
    names = make(Path(), toy_work)
    options = [text for name in names for text in ("--teacher", name)]
    made = fpd("cache-heatmaps", "-w", place.root, *options)
    assert made.exit_code == 0, made.output
    entry = read_manifest(files_at(place.store))["teacher"]
    assert [part["kind"] for part in entry["teachers"]] == kinds
    assert set(LSP.joints) - set(entry["covered_joints"]) == set(untaught)
    peaks = read_heatmaps(place.store, 0, range(18)).max((0, 2, 3))
    silent = {name for name, peak in zip(LSP.joints, peaks, strict=True) if not peak}
    assert silent == set(untaught)
    assert json.loads(place.kept_recipe.read_text())["store"]["teachers"] == names
    checked = fpd("verify-cache", "-w", place.root, "--deep")
    assert checked.exit_code == 0, checked.output
    assert "within" in checked.output or "cells" in checked.output
    trained = fpd("run", "student", "-w", place.root)
    assert trained.exit_code == 0, trained.output
    inputs = place.student("student").record()["identity"]["inputs"]
    assert inputs["teacher"] == entry
    scored = fpd("evaluate", "-w", place.root)
    assert scored.exit_code == 0, scored.output
    report = json.loads((place.evaluation / "report.json").read_text())
    assert list(report["models"]) == ["student", "teacher"]
    row = report["models"]["teacher"]
    assert row["teacher"]["teachers"] == entry["teachers"] and row["unknown"] == [
        name for name in LSP.joints if name in untaught
    ]
    assert {name for name, share in row["per_joint"].items() if share is None} == set(untaught)
    assert row["counts"]["neck"] == (0 if "neck" in untaught else 8)
    assert ("is scored on the joints that it knows" in scored.output) == bool(untaught)
    assert (place.evaluation / "report.html").is_file()
    assert report["store"]["teacher_passes"] == 2 * len(names) * 18  # mirrored, too
    assert not place.teacher.path.exists()


def test_teachers_score_what_they_score_as_models(work: WorkDir) -> None:
    """Beside a work directory's own teacher, under another name; mirrored where models are."""
    named = ("--set", f'store.teachers=["{work.teacher.path}"]')
    for options in ((), ("--flip-test",)):
        scored = fpd("evaluate", "-w", work.root, *named, *options)
        assert scored.exit_code == 0, scored.output
        rows = json.loads((work.evaluation / "report.json").read_text())["models"]
        own, there = rows["teacher"], rows["teacher@store"]
        for key in ("mean", "auc", "per_joint", "counts", "people", "parameters", "gmacs"):
            assert there[key] == pytest.approx(own[key]), key
        assert there["ms_per_image"] > 0 and "record" not in there
        page = (work.evaluation / "report.html").read_text("utf-8")
        assert "teacher@store" in page and "None" not in page


def test_a_joint_nobody_knows_is_neither_right_nor_wrong(place: WorkDir, toy_work: Path) -> None:
    shutil.copytree(toy_work / "teacher", place.teacher.path)
    write_json(place.kept_recipe, json.loads(place.kept_recipe.read_text()) | {"store": {}})
    knows = "spec = TeacherSpec(input=(32, 32), joints=('neck',), stride_px=2)"
    answers = "return crops.mean(1, keepdim=True)[:, :, ::2, ::2].sigmoid()"
    Path("only_neck.py").write_text(
        "from fpd.pipeline.teachers import TeacherSpec\n"
        f"class Neck:\n    {knows}\n    digest = 'x'\n"
        f"    def __call__(self, crops):\n        {answers}\n"
    )
    named = ("--set", 'store.teachers=["only_neck:Neck"]')
    scored = fpd("evaluate", "-w", place.root, *named)
    assert scored.exit_code == 0, scored.output
    row = json.loads((place.evaluation / "report.json").read_text())["models"]["teacher@store"]
    assert row["mean"] == row["mean_unweighted"] == row["per_joint"]["neck"]
    assert row["joints"] == row["counts"]["neck"] > 0 and row["not_finite"] == 0
    assert row["parameters"] is None and row["gmacs"] is None  # it multiplies nothing
    said = json.loads((place.evaluation / "predictions" / "teacher@store.json").read_text())
    assert [xy != [None, None] for xy in said["joints"][0]] == [n == "neck" for n in LSP.joints]


def test_teachers_that_are_gone_have_no_row(
    cached: WorkDir, caplog: pytest.LogCaptureFixture
) -> None:
    assert fpd("run", "student", "-w", cached.root).exit_code == 0
    for content, why in ((b"x", "model.pt2"), (None, "found none")):
        Path("model.pt2").unlink()
        if content is not None:
            Path("model.pt2").write_bytes(content)
        with caplog.at_level("WARNING", "fpd"):
            scored = fpd("evaluate", "-w", cached.root)
        assert scored.exit_code == 0, scored.output
        assert (
            f"no row of the teacher(s) model.pt2: {'expected' * (content is None)}" in caplog.text
        )
        assert why in caplog.text
        assert list(json.loads((cached.evaluation / "report.json").read_text())["models"]) == [
            "student"
        ]


# One kind stands for all: python's is made at once


@pytest.fixture
def cached(place: WorkDir, toy_work: Path) -> WorkDir:
    [name] = exported(Path(), toy_work)
    made = fpd("cache-heatmaps", "-w", place.root, "--teacher", name)
    assert made.exit_code == 0, made.output
    return place


def test_a_student_needs_no_teacher(cached: WorkDir) -> None:
    Path("model.pt2").unlink()
    trained = fpd("run", "student", "-w", cached.root)
    assert trained.exit_code == 0, trained.output
    checked = fpd("verify-cache", "-w", cached.root)
    assert checked.exit_code == 0, checked.output
    assert "no cell was compared" in checked.output
    again = fpd("cache-heatmaps", "-w", cached.root)
    assert again.exit_code == 1
    assert "--teacher model.pt2: expected a file or folder, found none" in again.output


def test_a_store_is_enough_elsewhere_too(
    cached: WorkDir, toy_work: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another directory, whose recipe names no teacher, unless it has a teacher of its own."""
    tree = json.loads(cached.kept_recipe.read_text())
    del tree["store"]["teachers"]
    other = WorkDir(tmp_path / "other")
    other.create()
    write_json(other.kept_recipe, tree)
    monkeypatch.chdir(other.root)
    trained = fpd("run", "student", "-w", other.root, "--store", tmp_path / cached.store)
    assert trained.exit_code == 0, trained.output
    shutil.copytree(toy_work / "teacher", other.teacher.path)
    found = fpd("run", "student", "-w", other.root, "--store", tmp_path / cached.store)
    assert found.exit_code == 1
    assert "does not fit this run: teacher." in found.output


def test_another_teacher_is_refused(cached: WorkDir, toy_work: Path) -> None:
    before = cached.kept_recipe.read_bytes()
    python(Path(), toy_work)
    for option in (["--teacher", "brightness:Brightness"], ["--teacher", toy_work / "teacher"]):
        found = fpd("cache-heatmaps", "-w", cached.root, *option)
        assert found.exit_code == 1
        assert "does not fit this run: teacher." in found.output
    assert cached.kept_recipe.read_bytes() == before  # later commands still find theirs
    with Path("model.pt2").open("ab") as file:
        file.write(b"\0")
    found = fpd("run", "student", "-w", cached.root)
    assert found.exit_code == 1
    assert "teacher.sources.0.sha256" in found.output or "teacher.sources" in found.output


def test_a_store_of_named_teachers_is_not_the_own_teachers(cached: WorkDir, toy_work: Path) -> None:
    shutil.copytree(toy_work / "teacher", cached.teacher.path)
    found = fpd("cache-heatmaps", "-w", cached.root, "--set", "store.teachers=[]")
    assert found.exit_code == 1
    assert "does not fit this run: teacher." in found.output
    anew = fpd("cache-heatmaps", "-w", cached.root, "--set", "store.teachers=[]", "--overwrite")
    assert anew.exit_code == 0, anew.output
    assert "teachers" not in json.loads(cached.kept_recipe.read_text())["store"]
    assert fpd("run", "student", "-w", cached.root).exit_code == 0


def test_run_all_trains_no_teacher_of_its_own(place: WorkDir, toy_work: Path) -> None:
    python(Path(), toy_work)
    teachers = 'store.teachers=["brightness:Brightness"]'
    found = fpd("run", "all", "-w", place.root, "--set", teachers)
    assert found.exit_code == 0, found.output
    assert "taught: 2 of 14 joints" not in found.output  # said by the log
    assert not place.teacher.path.exists()


def test_a_plan_asks_the_same_teacher(place: WorkDir, toy_work: Path) -> None:
    [name] = exported(Path(), toy_work)
    found = fpd("cache-heatmaps", "-w", place.root, "--teacher", name, "--plan")
    assert found.exit_code == 0, found.output
    assert "pilot of 48 views" in found.output
    assert not place.store.exists()
    assert "teachers" not in json.loads(place.kept_recipe.read_text())["store"]


def test_a_view_is_drawn_beside_the_live_teacher(cached: WorkDir) -> None:
    found = fpd("inspect-cache", "-w", cached.root, "--view", "3", "0", "-o", "view.png")
    assert found.exit_code == 0, found.output
    assert "off the live teacher" in found.output
    Path("model.pt2").rename("moved.pt2")
    found = fpd("inspect-cache", "-w", cached.root, "--view", "3", "0", "-o", "view.png")
    assert "no teacher in model.pt2 to compare with" in found.output


def test_workers_load_the_same_teacher(cached: WorkDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """From wherever they are, and their shards have the same bytes."""
    whole = {path: path.read_bytes() for path in shards(cached.store)}
    assert len(whole) == 3
    recipe, files = cached.recipe(None, ()), files_at(cached.store)
    workers = Workers(count=1, device="cpu")
    job = make_job(cached, recipe, files, read_manifest(files), workers)
    job = replace(job, share_gpus=False)
    lost, *_ = shards(cached.store)
    lost.unlink()
    monkeypatch.chdir("/")
    make_one(job, 0, int(lost.parts[lost.parts.index("c") + 2]))
    assert lost.read_bytes() == whole[lost]


def test_another_teacher_on_a_worker_is_refused(cached: WorkDir) -> None:
    files = files_at(cached.store)
    recipe, workers = cached.recipe(None, ()), Workers(count=1, device="cpu")
    job = make_job(cached, recipe, files, read_manifest(files), workers)
    job = replace(job, share_gpus=False)
    lost, *_ = shards(cached.store)
    lost.unlink()
    with Path("model.pt2.json").open("w") as file:
        file.write(TeacherSpec(input=(64, 48), joints=COCO_BODY, peak=2).model_dump_json())
    with pytest.raises(TaskFailed, match=r"another teacher .*model\.pt2"):
        make_one(job, 0, int(lost.parts[lost.parts.index("c") + 2]))


def shards(store: Path) -> list[Path]:
    inside = (store.absolute() / "heatmaps" / "c").rglob("*")
    return sorted(path for path in inside if path.is_file())


def test_what_nobody_teaches_is_said(
    place: WorkDir, toy_work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [name] = exported(Path(), toy_work)
    with caplog.at_level("INFO", "fpd"):
        assert fpd("cache-heatmaps", "-w", place.root, "--teacher", name).exit_code == 0
        assert "12 of 14 joints; students learn neck, head top from labels alone" in caplog.text
        caplog.clear()
        assert fpd("run", "student", "-w", place.root).exit_code == 0
        assert "neck" not in caplog.text
        alone = ("--name", "alone", "--set", "student.alpha=1")
        assert fpd("run", "student", "-w", place.root, *alone).exit_code == 0
    warned = [r.message for r in caplog.records if "alpha = 1" in r.message]
    assert len(warned) == 1
    assert "does not know its neck, head top" in warned[0]


def test_widths_that_differ_are_said(place: WorkDir, caplog: pytest.LogCaptureFixture) -> None:
    spec = TeacherSpec(input=(64, 48), joints=LSP.joints, sigma_px=3)
    entry: dict[str, Any] = {"teachers": [{"kind": "python", "spec": spec.model_dump(mode="json")}]}
    recipe = place.recipe(None, ())
    # 12 of its heatmap pixels show the crop, 16 of ours: sigma 3 becomes 4.
    [said] = compatibility_warnings(entry, recipe, LSP)
    assert "--set targets.sigma_px=4" in said
    wide = apply_overrides(recipe.model_dump(mode="json"), ["targets.sigma_px=4"])
    assert compatibility_warnings(entry, wide, LSP) == []


def test_the_documented_teacher_of_ones_own(place: WorkDir) -> None:
    """docs/teachers.md, followed to the letter."""
    text = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text("utf-8")
    _, block = text.split("## Bring your own")[1].split("```python\n", 1)
    code, rest = block.split("```", 1)
    Path("my_teachers.py").write_text(code)
    command = rest.split("$ fpd ")[1].splitlines()[0].replace("work/lsp", str(place.root))
    found = fpd(*command.split())
    assert found.exit_code == 0, found.output
    assert len(read_manifest(files_at(place.store))["teacher"]["covered_joints"]) == 12

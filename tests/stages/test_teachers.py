"""External teachers of each kind, from the cache to the scores, by the commands."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import Tensor, nn

from fpd.cli import main
from fpd.data.datasets import load
from fpd.data.geometry import Geometry
from fpd.data.skeletons import LSP, MPII
from fpd.data.views import Views
from fpd.pipeline.caching.worker import make as make_one
from fpd.pipeline.caching.worker import make_job
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.models.hourglass import Hourglass
from fpd.pipeline.models.settings import HourglassSettings
from fpd.pipeline.runtime.dask_cluster import TaskFailed, Workers
from fpd.pipeline.runtime.files import write_sealed_json
from fpd.pipeline.store import open_storage, read_heatmaps, read_manifest
from fpd.pipeline.store.compression import FAINT_PEAK
from fpd.pipeline.teachers import TeacherSpec, compatibility_warnings, load_teacher, parse
from fpd.pipeline.workdir import WorkDir
from fpd.stages import inspect

CPU = torch.device("cpu")

# Joints of COCO, without a neck and a head top, which LSP has.
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


def make_work(recipe: Recipe) -> WorkDir:
    """A work directory with a recipe and nothing else, in the current directory."""
    work = WorkDir(Path("work"))
    work.create()
    recipe = apply_overrides(
        recipe.model_dump(mode="json"),
        ["store.flip_averaged=true", "store.views=1", "student.epochs=1"],
    )
    write_sealed_json(work.kept_recipe, recipe.model_dump(mode="json"))
    return work


@pytest.fixture
def empty_work(tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> WorkDir:
    monkeypatch.chdir(tmp_path)
    return make_work(toy_recipe)


@pytest.fixture(scope="module")
def cached_folder(
    toy_work: Path, toy_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the exported teacher `model.pt2` and, in `work`, its store. Read-only."""
    folder = tmp_path_factory.mktemp("cached")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        work = make_work(toy_recipe)
        [name] = exported(Path(), toy_work)
        result = fpd("cache-heatmaps", "-w", work.root, "--teacher", name)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def cached(cached_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkDir:
    """A copy of `cached_folder`, which is the current directory, to change."""
    shutil.copytree(cached_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    work = WorkDir(Path("work"))
    tree = work.read_kept()  # which names the file that was copied
    tree["store"]["teachers"] = [str(tmp_path / "model.pt2")]
    work.write_kept(tree)
    return work


def read_report(work: WorkDir) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((work.evaluation / "report.json").read_text("utf-8"))
    return report


NECK_AND_HEAD_TOP = ["neck", "head top"]


def allowing(names: list[str]) -> list[str]:
    """The option that a command needs to run the teachers that the recipe names."""
    return ["--allow-code"] if any(":" in name for name in names) else []


@pytest.mark.parametrize(
    ("make", "kinds", "uncovered"),
    [
        (hourglass, ["hourglass"], []),
        (vitpose, ["vitpose"], NECK_AND_HEAD_TOP),
        (exported, ["exported"], NECK_AND_HEAD_TOP),
        (python, ["python"], list(LSP.joints[:12])),
        (other_run, ["folder"], []),
        (ensemble, ["exported", "python"], []),
    ],
)
def test_each_kind_fills_a_store(
    empty_work: WorkDir, toy_work: Path, make: Make, kinds: list[str], uncovered: list[str]
) -> None:
    names = make(Path(), toy_work)
    options = [text for name in names for text in ("--teacher", name)]
    cached = fpd("cache-heatmaps", "-w", empty_work.root, *options)
    assert cached.exit_code == 0, cached.output
    entry = read_manifest(open_storage(empty_work.store))["teacher"]
    assert [part["kind"] for part in entry["teachers"]] == kinds
    assert set(LSP.joints) - set(entry["covered_joints"]) == set(uncovered)
    peaks_K = read_heatmaps(empty_work.store, 0, range(18)).max((0, 2, 3))
    blank = {name for name, peak in zip(LSP.joints, peaks_K, strict=True) if not peak}
    assert blank == set(uncovered)
    assert json.loads(empty_work.kept_recipe.read_text())["store"]["teachers"] == [
        parse(name).absolute for name in names
    ]
    verified = fpd("verify-cache", "-w", empty_work.root, "--deep", *allowing(names))
    assert verified.exit_code == 0, verified.output
    assert "error / bound" in verified.output


@pytest.mark.parametrize(("make", "uncovered"), [(exported, NECK_AND_HEAD_TOP), (ensemble, [])])
def test_from_the_cache_to_the_scores(
    empty_work: WorkDir, toy_work: Path, make: Make, uncovered: list[str]
) -> None:
    names = make(Path(), toy_work)
    result = fpd(
        *("run", "all", "-w", empty_work.root, "--set", f"store.teachers={json.dumps(names)}"),
        *allowing(names),
    )
    assert result.exit_code == 0, result.output
    assert not empty_work.teacher.path.exists()
    entry = read_manifest(open_storage(empty_work.store))["teacher"]
    inputs = empty_work.student("student").record()["identity"]["inputs"]
    assert inputs["teacher"] == entry
    report = read_report(empty_work)
    assert list(report["models"]) == ["student", "teacher"]
    row = report["models"]["teacher"]
    assert row["teacher"]["teachers"] == entry["teachers"]
    assert row["uncovered_joints"] == [name for name in LSP.joints if name in uncovered]
    assert {name for name, share in row["per_joint"].items() if share is None} == set(uncovered)
    assert row["counts"]["neck"] == (0 if "neck" in uncovered else 8)
    assert ("does not predict neck, head top" in result.output) == bool(uncovered)
    assert (empty_work.evaluation / "report.html").is_file()
    assert report["store"]["teacher_passes"] == 2 * len(names) * 18  # flip-averaged


def test_an_external_teacher_scores_as_the_same_model_does(work: WorkDir) -> None:
    """Beside the work directory's own teacher, under another name, with the same flip test."""
    named = ("--set", f'store.teachers=["{work.teacher.path}"]')
    result = fpd("evaluate", "-w", work.root, *named, "--flip-test")
    assert result.exit_code == 0, result.output
    rows = read_report(work)["models"]
    own, external = rows["teacher"], rows["teacher@store"]
    for key in ("mean", "auc", "per_joint", "counts", "samples", "parameters", "gmacs"):
        assert external[key] == pytest.approx(own[key]), key
    assert external["ms_per_image"] > 0 and "record" not in external
    page = (work.evaluation / "report.html").read_text("utf-8")
    assert "teacher@store" in page and "None" not in page


def test_a_joint_without_a_prediction_is_neither_right_nor_wrong(
    empty_work: WorkDir, toy_work: Path
) -> None:
    shutil.copytree(toy_work / "teacher", empty_work.teacher.path)
    write_sealed_json(
        empty_work.kept_recipe, json.loads(empty_work.kept_recipe.read_text()) | {"store": {}}
    )
    Path("only_neck.py").write_text(
        "from fpd.pipeline.teachers import TeacherSpec\n"
        "class Neck:\n"
        "    spec = TeacherSpec(input=(32, 32), joints=('neck',), stride_px=2)\n"
        "    digest = 'x'\n"
        "    def __call__(self, crops):\n"
        "        return crops.mean(1, keepdim=True)[:, :, ::2, ::2].sigmoid()\n"
    )
    named = ("--set", 'store.teachers=["only_neck:Neck"]')
    scored = fpd("evaluate", "-w", empty_work.root, *named, "--allow-code")
    assert scored.exit_code == 0, scored.output
    row = read_report(empty_work)["models"]["teacher@store"]
    assert row["mean"] == row["mean_unweighted"] == row["per_joint"]["neck"]
    assert row["joints"] == row["counts"]["neck"] > 0 and row["not_finite"] == 0
    assert row["parameters"] is None and row["gmacs"] is None  # it has no weights
    path = empty_work.evaluation / "predictions" / "teacher@store.json"
    joints_K2 = json.loads(path.read_text())["joints"][0]
    assert [xy != [None, None] for xy in joints_K2] == [n == "neck" for n in LSP.joints]


def test_a_missing_or_damaged_teacher_has_no_row(
    cached: WorkDir, toy_work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(toy_work / "teacher", cached.root / "student")
    for content, reason in ((b"x", "cannot be read"), (None, "found none")):
        Path("model.pt2").unlink()
        if content is not None:
            Path("model.pt2").write_bytes(content)
        with caplog.at_level("WARNING", "fpd"):
            scored = fpd("evaluate", "-w", cached.root)
        assert scored.exit_code == 0, scored.output
        assert "model.pt2" in caplog.text and reason in caplog.text
        caplog.clear()
        assert list(read_report(cached)["models"]) == ["student"]


# Code runs only for whoever names it on the command line


MARKING_MODULE = "from pathlib import Path\nPath('code-ran').touch()\n" + MODULE


@pytest.fixture
def cached_by_code(
    empty_work: WorkDir, toy_work: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[WorkDir, Path]]:
    """A work directory whose recipe names a factory, its store, a student, and the marker file.

    The module touches the marker when it is imported.
    """
    monkeypatch.delitem(sys.modules, "marking", raising=False)
    Path("marking.py").write_text(MARKING_MODULE)
    marker = Path("code-ran").absolute()
    made = fpd("cache-heatmaps", "-w", empty_work.root, "--teacher", "marking:Brightness")
    assert made.exit_code == 0, made.output
    assert marker.exists()  # it was named on the command line
    marker.unlink()
    del sys.modules["marking"]
    shutil.copytree(toy_work / "teacher", empty_work.root / "student")
    yield empty_work, marker
    sys.modules.pop("marking", None)


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["cache-heatmaps"], 1),
        (["cache-heatmaps", "--plan"], 1),
        (["cache-heatmaps", "--budget", "1GB"], 1),
        (["verify-cache"], 1),
        (["verify-cache", "--repair", "--samples", "0"], 1),
        (["run", "all"], 1),
        (["evaluate"], 0),  # the other models are scored
        (["inspect-cache", "--view", "3", "0"], 0),  # the stored view is drawn
    ],
)
def test_a_recipe_runs_no_code(
    cached_by_code: tuple[WorkDir, Path],
    caplog: pytest.LogCaptureFixture,
    arguments: list[str],
    exit_code: int,
) -> None:
    work, marker = cached_by_code
    if arguments[0] == "run":
        shutil.rmtree(work.root / "student")  # it is trained
    with caplog.at_level("WARNING", "fpd"):
        result = fpd(*arguments, "-w", work.root)
    said = result.output + caplog.text
    assert result.exit_code == exit_code, result.output
    assert not marker.exists() and "marking" not in sys.modules
    assert "marking:Brightness" in said and "Python code" in said and "--allow-code" in said
    allowed = fpd(*arguments, "-w", work.root, "--allow-code")
    assert allowed.exit_code == 0, allowed.output
    assert marker.exists()


def test_commands_that_need_no_teacher_run_no_code(cached_by_code: tuple[WorkDir, Path]) -> None:
    work, marker = cached_by_code
    shutil.rmtree(work.root / "student")
    for arguments in (
        ["verify-cache", "--samples", "0", "--deep"],
        ["inspect-cache"],
        ["run", "student"],
        ["profile"],
    ):
        result = fpd(*arguments, "-w", work.root)
        assert result.exit_code == 0, result.output
    assert not marker.exists()


@pytest.mark.parametrize("how", ["recipe", "set"])
def test_neither_a_recipe_file_nor_a_setting_allows_code(
    empty_work: WorkDir, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """They are copied from others; an option of this command is the user's own word."""
    monkeypatch.delitem(sys.modules, "marking", raising=False)
    Path("marking.py").write_text(MARKING_MODULE)
    Path("theirs.toml").write_text('extends = "demo"\n[store]\nteachers = ["marking:Brightness"]\n')
    named = {
        "recipe": ["-r", "theirs.toml"],
        "set": ["-r", "demo", "--set", 'store.teachers=["marking:Brightness"]'],
    }
    for command in (["cache-heatmaps"], ["cache-heatmaps", "--plan"], ["run", "all"]):
        result = fpd(*command, "-w", "new", *named[how])
        assert result.exit_code == 1
        assert "names marking:Brightness as a teacher: Python code, which was" in result.output
    assert not Path("code-ran").exists()


def test_a_worker_runs_code_only_if_its_job_allows_it(
    cached_by_code: tuple[WorkDir, Path],
) -> None:
    work, marker = cached_by_code
    files, recipe = open_storage(work.store), work.recipe(None, ())
    workers = Workers(count=1, device="cpu")
    job = make_job(work, recipe, files, read_manifest(files), workers, allow_code=False)
    lost, *_ = shards(work.store)
    lost.unlink()
    shard = int(lost.parts[lost.parts.index("c") + 2])
    with pytest.raises(TaskFailed, match="Python code, which was not run"):
        make_one(replace(job, share_gpus=False), 0, shard)
    assert not marker.exists()
    make_one(replace(job, share_gpus=False, allow_code=True), 0, shard)
    assert marker.exists() and lost.exists()


# One kind represents all


def test_a_student_needs_no_teacher(cached: WorkDir) -> None:
    Path("model.pt2").unlink()
    trained = fpd("run", "student", "-w", cached.root)
    assert trained.exit_code == 0, trained.output
    checked = fpd("verify-cache", "-w", cached.root)
    assert checked.exit_code == 0, checked.output
    assert "no view was compared" in checked.output
    again = fpd("cache-heatmaps", "-w", cached.root)
    assert again.exit_code == 1
    assert "model.pt2: expected a file or folder, found none" in again.output


def test_a_store_serves_another_work_directory(
    cached: WorkDir, toy_work: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whose recipe names no teacher, unless it has trained a teacher of its own."""
    tree = json.loads(cached.kept_recipe.read_text())
    del tree["store"]["teachers"]
    other = WorkDir(tmp_path / "other")
    other.create()
    write_sealed_json(other.kept_recipe, tree)
    monkeypatch.chdir(other.root)
    trained = fpd("run", "student", "-w", other.root, "--store", tmp_path / cached.store)
    assert trained.exit_code == 0, trained.output
    shutil.copytree(toy_work / "teacher", other.teacher.path)
    result = fpd("run", "student", "-w", other.root, "--store", tmp_path / cached.store)
    assert result.exit_code == 1
    assert "does not fit this run: teacher." in result.output


def test_another_teacher_is_refused(cached: WorkDir, toy_work: Path) -> None:
    before = cached.kept_recipe.read_bytes()
    python(Path(), toy_work)
    for option in (["--teacher", "brightness:Brightness"], ["--teacher", toy_work / "teacher"]):
        result = fpd("cache-heatmaps", "-w", cached.root, *option)
        assert result.exit_code == 1
        assert "does not fit this run: teacher." in result.output
    assert cached.kept_recipe.read_bytes() == before  # later commands use the same teacher
    with Path("model.pt2").open("ab") as file:
        file.write(b"\0")
    result = fpd("run", "student", "-w", cached.root)
    assert result.exit_code == 1
    assert "teacher.teachers" in result.output


def test_a_store_of_external_teachers_does_not_serve_the_trained_one(
    cached: WorkDir, toy_work: Path
) -> None:
    shutil.copytree(toy_work / "teacher", cached.teacher.path)
    result = fpd("cache-heatmaps", "-w", cached.root, "--set", "store.teachers=[]")
    assert result.exit_code == 1
    assert "does not fit this run: teacher." in result.output
    again = fpd("cache-heatmaps", "-w", cached.root, "--set", "store.teachers=[]", "--overwrite")
    assert again.exit_code == 0, again.output
    assert not json.loads(cached.kept_recipe.read_text())["store"].get("teachers")


def test_a_plan_runs_the_external_teacher(empty_work: WorkDir, toy_work: Path) -> None:
    [name] = exported(Path(), toy_work)
    result = fpd("cache-heatmaps", "-w", empty_work.root, "--teacher", name, "--plan")
    assert result.exit_code == 0, result.output
    assert "pilot of 48 views" in result.output
    assert not empty_work.store.exists()
    assert not json.loads(empty_work.kept_recipe.read_text())["store"].get("teachers")


def test_a_view_is_compared_with_the_external_teacher(
    cached: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "draw_figure", lambda *_: None)
    recipe = cached.recipe(None, ())
    drawing = inspect.draw(cached, recipe, CPU, "3", 0, Path("view.png"))
    assert 0 < drawing["error"] <= drawing["bound"] == 0.1
    Path("model.pt2").rename("moved.pt2")
    drawing = inspect.draw(cached, recipe, CPU, "3", 0, Path("view.png"))
    assert re.match(r"no teacher in .*model\.pt2", drawing["not_compared"])


def test_workers_load_the_same_teacher(cached: WorkDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any working directory, and their shards have the same bytes."""
    whole = {path: path.read_bytes() for path in shards(cached.store)}
    assert len(whole) == 3
    recipe, files = cached.recipe(None, ()), open_storage(cached.store)
    workers = Workers(count=1, device="cpu")
    job = make_job(cached, recipe, files, read_manifest(files), workers, allow_code=False)
    job = replace(job, share_gpus=False)
    lost, *_ = shards(cached.store)
    lost.unlink()
    monkeypatch.chdir("/")
    make_one(job, 0, int(lost.parts[lost.parts.index("c") + 2]))
    assert lost.read_bytes() == whole[lost]


def test_another_teacher_on_a_worker_is_refused(cached: WorkDir) -> None:
    files = open_storage(cached.store)
    recipe, workers = cached.recipe(None, ()), Workers(count=1, device="cpu")
    job = make_job(cached, recipe, files, read_manifest(files), workers, allow_code=False)
    job = replace(job, share_gpus=False)
    lost, *_ = shards(cached.store)
    lost.unlink()
    with Path("model.pt2.json").open("w") as file:
        file.write(TeacherSpec(input=(64, 48), joints=COCO_BODY, peak=2).model_dump_json())
    with pytest.raises(TaskFailed, match=r"model\.pt2"):
        make_one(job, 0, int(lost.parts[lost.parts.index("c") + 2]))


def shards(store: Path) -> list[Path]:
    inside = (store.absolute() / "heatmaps" / "c").rglob("*")
    return sorted(path for path in inside if path.is_file())


def test_uncovered_joints_are_logged(
    empty_work: WorkDir, toy_work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [name] = exported(Path(), toy_work)
    with caplog.at_level("INFO", "fpd"):
        assert fpd("cache-heatmaps", "-w", empty_work.root, "--teacher", name).exit_code == 0
        assert "12 of 14 joints; students learn neck, head top from labels alone" in caplog.text
        caplog.clear()
        assert fpd("run", "student", "-w", empty_work.root).exit_code == 0
        assert "does not predict" not in caplog.text
        alone = ("--name", "alone", "--set", "student.alpha=1")
        assert fpd("run", "student", "-w", empty_work.root, *alone).exit_code == 0
    warned = [r.message for r in caplog.records if "alpha = 1" in r.message]
    assert len(warned) == 1
    assert "does not predict neck, head top" in warned[0]


def test_a_teacher_of_another_sigma_is_logged(
    empty_work: WorkDir, caplog: pytest.LogCaptureFixture
) -> None:
    spec = TeacherSpec(input=(64, 48), joints=LSP.joints, sigma_px=3)
    entry: dict[str, Any] = {"teachers": [{"kind": "python", "spec": spec.model_dump(mode="json")}]}
    recipe = empty_work.recipe(None, ())
    # The crop is 12 pixels of its heatmaps, 16 of ours: sigma 3 becomes 4.
    [warning] = compatibility_warnings(entry, recipe, LSP)
    assert "--set targets.sigma_px=4" in warning
    wide = apply_overrides(recipe.model_dump(mode="json"), ["targets.sigma_px=4"])
    assert compatibility_warnings(entry, wide, LSP) == []


def test_the_documented_python_teacher_fills_a_store(empty_work: WorkDir) -> None:
    """Code and commands of docs/teachers.md."""
    text = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text("utf-8")
    _, block = text.split("## Bring your own")[1].split("```python\n", 1)
    code, rest = block.split("```", 1)
    Path("my_teachers.py").write_text(code)
    commands = (
        rest.split("\n## ", 1)[0].replace("work/lsp", str(empty_work.root)).split("$ fpd ")[1:]
    )
    assert len(commands) == 2  # caches and verifies
    for command in commands:
        result = fpd(*command.splitlines()[0].split())
        assert result.exit_code == 0, result.output
    assert len(read_manifest(open_storage(empty_work.store))["teacher"]["covered_joints"]) == 12


def test_a_teacher_sees_views_at_the_size_of_its_input(cached: WorkDir) -> None:
    """Cut from the photograph by the same affine map; its maps are put on the store's grid."""
    recipe = cached.recipe(None, ())
    samples = load(recipe.data, "train")
    source = load_teacher(cached.teacher, recipe, samples.skeleton, allow_code=False)
    predictor = source.predictor(CPU)
    at_its_size = Geometry(crop_px=48, stride_px=4)  # the shorter side of 64 x 48
    views = Views(samples, at_its_size, recipe.stored_augmentation, recipe.store.seed)
    crops = torch.from_numpy(np.stack([views[index, 0]["crop"] for index in range(18)]))
    with torch.inference_mode():
        expected = predictor(crops).clamp_min(0).numpy()
    difference = np.abs(read_heatmaps(cached.store, 0, range(18)) - expected)
    allowed = recipe.store.max_error * expected.max((-2, -1), keepdims=True).clip(FAINT_PEAK)
    assert (difference <= 1.01 * allowed).all()
    assert read_manifest(open_storage(cached.store))["teacher"]["crop_px"] == 48


def test_a_teacher_can_be_run_on_the_students_crops(cached: WorkDir) -> None:
    own = read_manifest(open_storage(cached.store))["teacher"]
    options = ("--set", "store.teacher_crops=student")
    refused = fpd("cache-heatmaps", "-w", cached.root, *options)
    assert refused.exit_code == 1 and "teacher.crop_px" in refused.output
    made = fpd("cache-heatmaps", "-w", cached.root, "--overwrite", *options)
    assert made.exit_code == 0, made.output
    entry = read_manifest(open_storage(cached.store))["teacher"]
    assert "crop_px" not in entry and entry["teachers"] == own["teachers"]
    # Later commands find the choice in the work directory's recipe.
    for command in (["verify-cache"], ["run", "student"], ["evaluate"]):
        result = fpd(*command, "-w", cached.root)
        assert result.exit_code == 0, result.output


def test_a_portable_store_needs_photographs_to_be_compared_with_such_a_teacher(
    cached: WorkDir, tmp_path: Path
) -> None:
    made = fpd("cache-heatmaps", "-w", cached.root, "--overwrite", "--portable")
    assert made.exit_code == 0, made.output
    compared = fpd("verify-cache", "-w", cached.root)
    assert compared.exit_code == 0 and "error / bound" in compared.output
    elsewhere = ("-w", tmp_path / "elsewhere", "--store", cached.store)
    named = ("--set", f'store.teachers=["{tmp_path / "model.pt2"}"]')
    alone = fpd("verify-cache", *elsewhere, *named)
    assert alone.exit_code == 0, alone.output
    assert "error / bound" not in alone.output and "photographs" in alone.output

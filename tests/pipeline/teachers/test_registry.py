"""What `--teacher` may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from fpd.pipeline.teachers.registry import load, parse, quick_digest


@pytest.mark.parametrize(
    ("name", "kind", "layout"),
    [
        ("models/hg8.pth", "hourglass", None),
        ("models/model_best.pth.tar", "hourglass", None),
        ("ilovepose:models/hg8.pth", "hourglass", "ilovepose"),
        ("anibali:hg2", "hourglass", "anibali"),
        ("hg.safetensors", "hourglass", None),
        ("model.pt2", "exported", None),
        ("models/rtmpose.onnx", "onnx", None),
        ("pose_landmark_full.tflite", "tflite", None),
        ("my_teachers:hrnet", "python", None),
        ("package.module:factory", "python", None),
        ("work/other/teacher", "folder", None),
    ],
)
def test_the_kind_is_determined_although_the_path_does_not_exist(
    name: str, kind: str, layout: str | None
) -> None:
    ref = parse(name)
    assert (ref.kind, ref.layout) == (kind, layout)
    assert ref.exists == (kind == "python")
    assert quick_digest(ref) is None
    if kind != "python":
        with pytest.raises(ValueError, match=f"--teacher {name}.*found none"):
            load(ref, allow_code=False)


@pytest.mark.parametrize("name", ["https://host/x", "bearpaw:a/b", "a.b:", ":c", "x:y z"])
def test_names_of_no_known_form_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"--teacher {name}: .*package\.module:factory"):
        parse(name)


def test_a_work_directory_is_answered_with_its_teacher(toy_work: Path) -> None:
    with pytest.raises(ValueError, match=f"a work directory, whose teacher is {toy_work}/teacher$"):
        parse(str(toy_work))


def test_absolute_names_are_valid_in_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("anibali:hg.pth").absolute == f"anibali:{tmp_path}/hg.pth"
    assert parse("model.pt2").absolute == f"{tmp_path}/model.pt2"
    assert parse("a.b:c").absolute == "a.b:c"
    assert parse("hf:a/b").absolute == "hf:a/b"

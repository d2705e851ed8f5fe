"""The data card of a portable store: true, harmless, the same every time, and the publisher's."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fpd.data.io.jpeg import decode_jpeg
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.store import (
    StoreReader,
    open_storage,
    read_heatmaps,
    read_manifest,
    stored_layout,
)
from fpd.pipeline.store.data_card import FILL_IN, is_unedited, render, write_data_card
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, merge

CPU = torch.device("cpu")


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), changes)


@pytest.fixture(scope="module")
def manifest(portable_toy_work: Path) -> dict[str, Any]:
    return read_manifest(open_storage(portable_toy_work / "heatmaps.zarr"))


@pytest.fixture(scope="module")
def card(portable_toy_work: Path) -> str:
    return (portable_toy_work / "heatmaps.zarr" / "README.md").read_text("utf-8")


def test_a_finished_portable_store_has_a_card(card: str, manifest: dict[str, Any]) -> None:
    for fact in (
        'pretty_name: "Heatmaps and crops of synthetic"',
        "license: other",
        "- n<1K",
        "| train | 18 | 2 augmented, with heatmaps |",
        "| validation | 6 | 1, not augmented |",
        "| test | 8 | 1, not augmented |",
        "JPEG of quality 90",
        "at most 10 % of a map's peak",
        manifest["teacher"]["sha256"],
        "64 x 64 pixels, heatmaps 16 x 16",
        "fpd run student -w work/new --store heatmaps.zarr",
        "sample ids are hashes",
    ):
        assert fact in card, fact
    assert card.count(FILL_IN) == 3
    assert is_unedited(card.encode())


def test_its_lines_of_python_read_the_store(
    card: str, portable_toy_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heatmaps.zarr").symlink_to(portable_toy_work / "heatmaps.zarr")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    variables: dict[str, Any] = {}
    exec(code, variables)
    storage = open_storage(tmp_path / "heatmaps.zarr")
    reader = StoreReader(storage, stored_layout(storage))
    expected = read_heatmaps(tmp_path / "heatmaps.zarr", 0, [0])[0]
    np.testing.assert_allclose(variables["heatmaps"], expected, atol=1e-6)
    np.testing.assert_array_equal(variables["crop"], decode_jpeg(reader.read_crop(0, 0), 64))
    np.testing.assert_array_equal(variables["joints"], reader.read_row("joints", 0, 0))


def test_a_store_of_heatmaps_alone_has_none(toy_work: Path) -> None:
    assert not (toy_work / "heatmaps.zarr" / "README.md").exists()


def test_an_incomplete_store_has_none(work: WorkDir, portable_recipe: Recipe) -> None:
    shutil.rmtree(work.store)
    heatmaps.run(work, portable_recipe, CPU, only_views=[1])
    assert not (work.store / "README.md").exists()
    heatmaps.run(work, portable_recipe, CPU)
    assert (work.store / "README.md").exists()


@pytest.mark.parametrize("edit", [b"Mine.\n", b"", "append"])
def test_a_card_that_was_edited_is_never_overwritten(
    portable_work: WorkDir, portable_recipe: Recipe, edit: bytes | str
) -> None:
    path = portable_work.store / "README.md"
    if isinstance(edit, bytes):
        path.write_bytes(edit)
    else:
        path.write_text(path.read_text("utf-8").replace(FILL_IN, "Toy people", 1), "utf-8")
    mine = path.read_bytes()
    heatmaps.run(portable_work, changed(portable_recipe, "store.views=3"), CPU)
    assert path.read_bytes() == mine


def test_a_card_that_was_not_edited_follows_the_store(
    portable_work: WorkDir, portable_recipe: Recipe
) -> None:
    heatmaps.run(portable_work, changed(portable_recipe, "store.views=3"), CPU)
    text = (portable_work.store / "README.md").read_text("utf-8")
    assert "| train | 18 | 3 augmented, with heatmaps |" in text


def test_a_card_in_the_place_of_which_is_a_link_is_left_alone(
    portable_work: WorkDir, tmp_path: Path
) -> None:
    path = portable_work.store / "README.md"
    path.unlink()
    (tmp_path / "other.md").write_text("other")
    path.symlink_to(tmp_path / "other.md")
    assert not write_data_card(open_storage(portable_work.store), "MIT")
    assert (tmp_path / "other.md").read_text() == "other"


@pytest.mark.parametrize(
    ("license_name", "lines"),
    [
        ("CC-BY-4.0", ["license: cc-by-4.0"]),
        ('for "research" only\n- x', ["license: other", 'license_name: "for \\"research\\" only']),
    ],
)
def test_the_license_is_kept_until_another_is_given(
    portable_work: WorkDir, license_name: str, lines: list[str]
) -> None:
    storage = open_storage(portable_work.store)
    assert write_data_card(storage, license_name)
    given = storage.read("README.md")
    for line in lines:
        assert f"\n{line}" in given.decode()
    assert not write_data_card(storage)
    assert storage.read("README.md") == given
    assert write_data_card(storage, "MIT")
    assert b"\nlicense: mit\n" in storage.read("README.md")


def test_the_card_is_the_same_every_time(manifest: dict[str, Any], card: str) -> None:
    assert render(manifest) == card.encode()
    shuffled = {key: manifest[key] for key in reversed(manifest)}
    shuffled["versions"] = {"torch": "9"}
    assert render(shuffled) == card.encode()


def test_a_merged_store_has_the_same_card(
    portable_work: WorkDir, portable_recipe: Recipe, tmp_path: Path, card: str
) -> None:
    merged = WorkDir(tmp_path / "merged")
    merged.create()
    merge.run(merged, portable_recipe, [str(portable_work.store)])
    assert (merged.store / "README.md").read_text("utf-8") == card


def test_text_of_unknown_origin_is_shown_and_does_nothing(manifest: dict[str, Any]) -> None:
    bad = '\x1b[2J](javascript:1) <script>`| **x**\n---\nlicense: mit\n"'
    hostile = copy.deepcopy(manifest)
    hostile["datasets"][-1]["name"] = bad
    hostile["joints"][0] = bad
    hostile["teacher"] = {"sha256": bad, "teachers": [{"kind": bad, "sha256": bad}, 3]}
    hostile["augmentation"] = {bad: bad}
    hostile["seed"] = bad
    hostile["encoding_error"] = [bad]
    hostile["crops"]["quality"] = bad
    text = render(hostile).decode()
    assert "\x1b" not in text
    body = text.split("\n---\n", 1)[1]
    assert not re.search(r"(?<!\\)(<script|\]\(javascript|\*\*x)", body)
    assert text.count("\n---\n") == 1  # the front matter ends where it did
    assert "\nlicense: mit" not in text
    assert text.count("```") == render(manifest).decode().count("```")


@pytest.mark.parametrize(
    ("samples", "category"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M")]
)
def test_the_size_category_is_of_the_training_samples(
    manifest: dict[str, Any], samples: int, category: str
) -> None:
    larger = copy.deepcopy(manifest)
    larger["datasets"][-1]["samples"] = samples
    assert f"\n- {category}\n" in render(larger).decode()


def test_ids_in_clear_are_declared(manifest: dict[str, Any]) -> None:
    named = copy.deepcopy(manifest)
    named["crops"]["source_names"] = True
    text = render(named).decode()
    assert "contain names of its image files" in text
    assert "hashes" not in text

"""Prediction files: the array with a fitting shape is read, and other files are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.io

from fpd.pipeline.evaluation.predictions import fitting_layouts, read_predictions

JOINTS = tuple(f"joint {chr(97 + k)}" for k in range(16))
NK2 = np.random.default_rng(0).random((5, 16, 2))


@pytest.mark.parametrize(
    ("array", "layout"), [(NK2, "N x K x 2"), (NK2.transpose(1, 2, 0), "K x 2 x N")]
)
def test_both_layouts_are_read(tmp_path, array, layout) -> None:
    np.save(tmp_path / "p.npy", array)
    file = read_predictions(tmp_path / "p.npy", {5: None, 7: None}, JOINTS)
    assert (file.name, file.layout) == ("", layout)
    np.testing.assert_array_equal(file.joints_NK2, NK2)


def test_the_only_fitting_array_is_read(tmp_path) -> None:
    scipy.io.savemat(tmp_path / "p.mat", {"scores": NK2[..., :1], "xy": NK2, "boxes": NK2[0]})
    assert read_predictions(tmp_path / "p.mat", [5], JOINTS).name == "xy"


def test_two_fitting_arrays_are_refused(tmp_path) -> None:
    np.savez(tmp_path / "p.npz", first=NK2, second=NK2)
    with pytest.raises(ValueError, match=r"found 2 that fit among: first 5 x 16 x 2, second 5 x"):
        read_predictions(tmp_path / "p.npz", [5], JOINTS)


@pytest.mark.parametrize("shape", [(4, 16, 2), (5, 14, 2), (5, 16, 3), (16, 2), (2, 16, 5)])
def test_other_shapes_are_refused(tmp_path, shape) -> None:
    np.save(tmp_path / "p.npy", np.zeros(shape))
    with pytest.raises(
        ValueError, match=r"expected one array of N x 16 x 2 or 16 x 2 x N"
    ) as error:
        read_predictions(tmp_path / "p.npy", [5, 8], JOINTS)
    assert "N being 5 or 8, found none that fits among: " in str(error.value)
    assert str(error.value).endswith(" x ".join(map(str, shape)))


def test_a_file_without_numbers_is_refused(tmp_path) -> None:
    (tmp_path / "p.json").write_text('{"people": [[1, 2]]}')
    with pytest.raises(ValueError, match="none that fits among: no array of numbers"):
        read_predictions(tmp_path / "p.json", [5], JOINTS)


def test_an_ambiguous_shape_is_refused(tmp_path) -> None:
    assert len(fitting_layouts((2, 2, 2), [2], 2)) == 2
    np.save(tmp_path / "p.npy", np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="found 2 that fit"):
        read_predictions(tmp_path / "p.npy", [2], ("a", "b"))


def test_named_joints_are_matched_by_name(tmp_path) -> None:
    order = np.random.default_rng(0).permutation(16)
    names = [JOINTS[k].title() for k in order]
    content = {"joint_names": names, "joints": NK2[:, order].tolist()}
    (tmp_path / "p.json").write_text(json.dumps(content))
    file = read_predictions(tmp_path / "p.json", [5], JOINTS)
    np.testing.assert_array_equal(file.joints_NK2, NK2)
    assert file.has_names


def test_other_names_are_refused(tmp_path) -> None:
    content = {"joint_names": ["tail", *JOINTS[1:]], "joints": NK2.tolist()}
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"truth alone has joint a; .*p\.json alone has tail$"):
        read_predictions(tmp_path / "p.json", [5], JOINTS)
    (tmp_path / "p.json").write_text(json.dumps(content | {"joint_names": [1]}))
    with pytest.raises(ValueError, match="joint_names: expected a list of names"):
        read_predictions(tmp_path / "p.json", [5], JOINTS)

"""YAML of unknown origin: plain values, or one sentence."""

from __future__ import annotations

import pytest

from fpd.data.io.yaml_files import MAX_YAML_BYTES, read_yaml


def read(tmp_path, text: str):
    path = tmp_path / "data.yaml"
    path.write_text(text, "utf-8")
    return read_yaml(path, "a description")


def test_plain_values(tmp_path) -> None:
    text = "\ufeffa: [1, 2.5, yes, ~, 'x']\nb:\n  0: {c: d}\n"
    assert read(tmp_path, text) == {"a": [1, 2.5, True, None, "x"], "b": {0: {"c": "d"}}}
    assert read(tmp_path, "") is None


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "references"),
        ("a: !!python/object/apply:os.getcwd []", "constructor"),
        ("a: !!python/name:os.system", "constructor"),
        ("a: [", "expected"),
        ("[" * 5000, ""),
        ("a: 2026-99-99", "month"),
        ("{[1]: 2}", "unhashable"),
        ("a: !!timestamp foo", ""),
        ("\x00", "special characters"),
        ("a: " + "x" * MAX_YAML_BYTES, "at most"),
    ],
)
def test_everything_else_is_one_sentence(tmp_path, text, reason) -> None:
    message = rf"^\S*data\.yaml cannot be read as a description: .*{reason}"
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_missing_file(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read as a description \(No such file"):
        read_yaml(tmp_path / "data.yaml", "a description")

"""Text of unknown origin in cards."""

from __future__ import annotations

import pytest

from fpd.pipeline.runtime.cards import (
    MAX_TEXT,
    describe_settings,
    describe_teacher,
    escape,
    license_fields,
    quote,
    table,
)


def test_markdown_and_yaml_show_text_as_it_is() -> None:
    assert escape("<b> | [x](y) `z`") == r"\<b\> \| \[x\]\(y\) \`z\`"
    assert escape("https://a.b www.c.d") == r"https\://a.b www\.c.d"
    assert quote("\ufffe") == '"\\\\ufffe"'
    assert escape("a\n# b") == r"a\\n\# b"
    assert quote('say "é"\n---') == r'"say \"é\"\\n---"'
    assert len(escape("x" * 1000)) == MAX_TEXT == len(quote("x" * 1000)) - 2
    assert table([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("Our own", {"license": "other", "license_name": '"Our own"'}),
        (None, {"license": "other"}),
    ],
)
def test_a_license_is_an_identifier_or_has_a_name(name: str | None, fields: dict[str, str]) -> None:
    assert license_fields(name) == fields


def test_a_teacher_was_trained_here_or_elsewhere() -> None:
    model = {"name": "hourglass", "stages": 8, "channels": 256}
    assert describe_teacher({"model": model, "sha256": "ab"}) == (
        r"hourglass (channels 256, stages 8), trained with fpd (SHA-256 of its weights: ab)"
    )
    external = {"teachers": [{"kind": "vitpose", "sha256": "cd"}, "damaged"]}
    assert describe_teacher(external) == "vitpose (SHA-256 cd)"
    assert describe_teacher(None) == "unknown"
    assert describe_settings(3) == "unknown settings"

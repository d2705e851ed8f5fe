"""The HTML page: well-formed, self-contained, and inert whatever names it contains."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from fpd.data.skeletons import COCO, LSP, MPII
from fpd.pipeline.evaluation.report import page as module

Build = Callable[..., str]
VOID = {"meta", "link", "input", "wbr"}


class Outline(HTMLParser):
    """The tags with their attributes, and those that are not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, attribute: str) -> list[str]:
        return [
            attributes[attribute] or "" for _, attributes in self.tags if attribute in attributes
        ]

    def count(self, tag: str) -> int:
        return Counter(name for name, _ in self.tags)[tag]


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


def test_tags_are_closed_and_ids_are_unique_and_resolve(outline: Outline) -> None:
    assert outline.open == []
    ids = outline.values("id")
    assert len(ids) == len(set(ids)) > 20
    for reference in [*outline.values("aria-labelledby"), *outline.values("for")]:
        assert reference in ids
    for link in outline.values("href"):
        assert link.startswith("data:") or link[1:] in ids, link


def test_the_page_makes_no_requests(page: str, outline: Outline) -> None:
    for attribute in ("src", "srcset", "action", "poster", "data", "xlink:href"):
        assert outline.values(attribute) == []
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    assert not re.search(r"https?://", page)
    policy = next(v for v in outline.values("content") if v.startswith("default-src"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:" and rules["style-src"] == "'unsafe-inline'"
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == outline.count("script") == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"


EVIL = "</script></style><script>hacked=1</script><img src=x onerror=hacked=1>'\"--><svg/onload=a>"


def evil_record(report: dict[str, Any]) -> None:
    report["device"] = report["dataset"]["name"] = EVIL
    report["store"]["manifest"]["seed"] = EVIL
    for row in report["models"].values():
        row["record"]["identity"]["settings"]["training"] |= {EVIL: EVIL, "optimizer": EVIL}
        row["record"]["device"] = EVIL
        row["record"]["result"]["weights_sha256"] = {"deep": EVIL}


def test_names_and_settings_of_users_are_inert(build: Build) -> None:
    noise = {"teacher": 0.1, f"a{EVIL}": 0.2, "$x^2$ {{ 7*7 }}": 0.3}
    page = build(4, noise, lambda name: name + EVIL, evil_record)
    outline = Outline(page)
    assert outline.open == []
    assert outline.count("script") == outline.count("style") == 1 and outline.count("img") == 0
    assert not [name for _, attributes in outline.tags for name in attributes if name[:2] == "on"]
    assert "{{ 7*7 }}" in page  # names are not templates
    assert html.escape(EVIL) in page.replace("&#39;", "&#x27;").replace("&#34;", "&quot;")


def test_names_of_joints_are_inert(build: Build) -> None:
    joints = (EVIL, r"$\frac{$", "\x1b[2J", "\ud800")
    page = build(4, joints=joints)
    outline = Outline(page)
    assert outline.open == []
    assert outline.count("script") == outline.count("style") == 1 and outline.count("img") == 0
    assert r"$\frac{$" in page


def test_the_same_evaluation_gives_the_same_bytes(build: Build, page: str) -> None:
    assert build() == page


def test_charts_have_descriptions_and_tables(
    page: str, outline: Outline, report: dict[str, Any]
) -> None:
    images = [attributes for _, attributes in outline.tags if attributes.get("role") == "img"]
    labels = [attributes["aria-label"] or "" for attributes in images]
    assert len(labels) == 6
    mean = f"{100 * report['models']['student']['mean']:.1f}"
    assert any(f"student {mean}" in label for label in labels)
    assert page.count("<summary>Numbers</summary>") == 5
    assert outline.count("caption") == outline.count("table")


def test_the_page_states_how_samples_are_selected(page: str, outline: Outline) -> None:
    cards = outline.count("image")
    assert f"<p>{cards} of 40 test samples, selected by rule" in page
    assert len(outline.values("data-errors")) == cards


def test_missing_parts_are_stated(build: Build, page: str) -> None:
    def remove(report: dict[str, Any]) -> None:
        report["store"] = None
        del report["models"]["student"]["record"]

    partial = build(4, {"student": 0.2}, change=remove)
    text = re.sub(r"<[^>]*>", " ", partial)
    assert "no finished teacher" in text and "no heatmap store" in text and "not recorded" in text
    outline = Outline(partial)
    assert "teacher" not in outline.values("data-layer")
    assert "disagreement" not in outline.values("value")
    assert outline.values("data-teacher") == []
    assert "notes-title" in outline.values("id") and 'id="notes-title"' not in page


def test_a_test_set_without_labels_is_shown(build: Build) -> None:
    def unlabel(report: dict[str, Any]) -> None:
        for row in report["models"].values():
            row |= {"mean": None, "mean_unweighted": None, "auc": None, "oks": None}
            row["oks_left_out"] = "for a reason"
            for part in ("groups", "per_joint"):
                row[part] = dict.fromkeys(row[part])
            row["curve"]["pck"] = [None] * len(row["curve"]["pck"])

    page = build(30, {"student": 0.2}, change=unlabel, labeled=False)
    outline = Outline(page)
    assert outline.open == []
    assert outline.count("image") == 24
    assert "No test sample has a label that counts" in page and "for a reason" in page
    text = re.sub("base64,[A-Za-z0-9+/=]+", "", page)  # encoded images may contain any letters
    assert "NaN" not in text.partition("<script>")[0]


def test_the_unit_of_length_is_stated() -> None:
    units = [module._unit(skeleton) for skeleton in (MPII, LSP, COCO)]
    assert "head box" in units[0] and "left shoulder" in units[1] and "side of its box" in units[2]

"""The page as a file: inert whatever names it holds, whole, and without a word to a network."""

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

Build = Callable[..., str]
VOID = {"meta", "link", "input", "wbr"}


class Outline(HTMLParser):
    """Tags with their attributes, and whether every one that opens is closed."""

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
        return [found[attribute] or "" for _, found in self.tags if attribute in found]

    def count(self, tag: str) -> int:
        return Counter(name for name, _ in self.tags)[tag]


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


def test_every_tag_is_closed_and_every_id_is_single(outline: Outline) -> None:
    assert outline.open == []
    ids = outline.values("id")
    assert len(ids) == len(set(ids)) > 20
    for reference in [*outline.values("aria-labeledby"), *outline.values("for")]:
        assert reference in ids
    for link in outline.values("href"):
        assert link.startswith("data:") or link[1:] in ids, link


def test_it_asks_nothing_of_a_network(page: str, outline: Outline) -> None:
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
    models = {"teacher": 0.1, f"a{EVIL}": 0.2, "$x^2$ {{ 7*7 }}": 0.3}
    found = build(8, models, lambda name: name + EVIL, evil_record)
    outline = Outline(found)
    assert outline.open == []
    plain = Outline(build(8, {"teacher": 0.1, "a": 0.2, "b": 0.3}))
    for tag in ("script", "style", "img", "image", "svg", "path"):
        assert outline.count(tag) == plain.count(tag), tag
    assert not [name for _, found in outline.tags for name in found if name.startswith("on")]
    assert "{{ 7*7 }}" in found  # no template runs twice
    assert html.escape(EVIL) in found.replace("&#39;", "&#x27;").replace("&#34;", "&quot;")


def test_the_same_evaluation_gives_the_same_bytes(build: Build, page: str) -> None:
    assert build() == page


def test_charts_are_described_in_words(page: str, outline: Outline, report: dict[str, Any]) -> None:
    labels = [
        found["aria-label"] or "" for tag, found in outline.tags if found.get("role") == "img"
    ]
    assert len(labels) == 6
    mean = f"{100 * report['models']['student']['mean']:.1f}"
    assert any(f"student {mean}" in label for label in labels)
    assert page.count("<summary>Numbers</summary>") == 5
    assert outline.count("caption") == outline.count("table")


def test_people_are_chosen_by_a_rule_that_is_stated(page: str, outline: Outline) -> None:
    cards = outline.count("image")
    assert f"<p>{cards} of 40 test people, chosen by rule" in page
    assert len(outline.values("data-errors")) == cards


def test_without_teacher_store_history_or_records_it_says_so(build: Build) -> None:
    def strip(report: dict[str, Any]) -> None:
        report["store"] = None
        del report["models"]["student"]["record"]

    found = build(6, {"student": 0.2}, change=strip)
    text = re.sub(r"<[^>]*>", " ", found)
    assert "no finished teacher" in text and "no heatmap store" in text and "not recorded" in text
    outline = Outline(found)
    assert "teacher" not in outline.values("data-layer")
    assert "against" not in outline.values("value")
    assert outline.values("data-teacher") == []
    assert "Remarks" not in build(6)


def test_hundreds_of_people_stay_below_three_megabytes(build: Build) -> None:
    found = build(250, {f"student-{n}": 0.1 * n for n in range(1, 7)} | {"teacher": 0.1})
    assert 300_000 < len(found.encode()) < 3_000_000


def test_people_whom_nobody_labeled_are_shown_all_the_same(build: Build) -> None:
    def unlabel(report: dict[str, Any]) -> None:
        for row in report["models"].values():
            row |= {"mean": None, "mean_unweighted": None, "auc": None, "oks": None}
            row["oks_left_out"] = "for a reason"
            for part in ("groups", "per_joint"):
                row[part] = dict.fromkeys(row[part])
            row["curve"]["pck"] = [None] * len(row["curve"]["pck"])

    found = build(30, {"student": 0.2}, change=unlabel, labeled=False)
    outline = Outline(found)
    assert outline.open == []
    assert outline.count("image") == 24
    assert "No test person has a label that counts" in found and "for a reason" in found
    text = re.sub("base64,[A-Za-z0-9+/=]+", "", found)  # pictures may spell anything
    assert "NaN" not in text.partition("<script>")[0]


def test_oks_has_a_table(build: Build) -> None:
    def score(report: dict[str, Any]) -> None:
        scores = {"AP": 0.512, "AP50": 0.8, "AP75": 0.5, "AP(M)": 0.4, "AP(L)": 0.6, "AR": 0.55}
        report["models"]["student"]["oks"] = scores

    found = re.sub(r"<[^>]*>", " ", build(6, {"student": 0.2}, change=score))
    assert "AP75" in found and " 51.2 " in found

"""The page in Chromium: mouse, keyboard, phone screens, dark mode, print, accessibility."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpd.data.samples import SampleSet
from fpd.pipeline.evaluation.inference import PredictedJoints
from fpd.pipeline.evaluation.report.gallery import disagreements, sample_errors
from fpd.pipeline.runtime.palette import DARK

pytestmark = pytest.mark.slow

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)
PHONE, DESKTOP = (360, 740), (1280, 900)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def url(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, "utf-8")
    return path.as_uri()


def view(driver: webdriver.Chrome, size: tuple[int, int], scheme: str = "light") -> None:
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture
def opened(browser: webdriver.Chrome, url: str) -> Iterator[webdriver.Chrome]:
    """The page, newly loaded; after the test, the console log is empty and no request was made."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    view(browser, DESKTOP)
    browser.get(url)
    yield browser
    assert browser.get_log("browser") == []
    assert set(requests(browser, url)) == {url}


def requests(driver: webdriver.Chrome, page: str) -> list[str]:
    """URLs that the page requested; requests of the browser's own start page are left out."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    urls = [params["request"]["url"] for params in sent if params["documentURL"].startswith(page)]
    return [url.partition("#")[0] for url in urls if not url.startswith("data:")]


def find(driver: webdriver.Chrome, selector: str) -> Any:
    return driver.find_element(By.CSS_SELECTOR, selector)


def texts(driver: webdriver.Chrome, selector: str) -> list[str]:
    script = (
        "return [...document.querySelectorAll(arguments[0])]"
        ".filter(e => e.checkVisibility()).map(e => e.textContent.trim())"
    )
    visible: list[str] = driver.execute_script(script, selector)
    return visible


def shown_ids(driver: webdriver.Chrome) -> list[str]:
    return texts(driver, ".cards .id")


def choose(driver: webdriver.Chrome, name: str, text: str) -> None:
    Select(find(driver, f"#pick-{name}")).select_by_visible_text(text)


def test_columns_sort_by_mouse_and_by_keyboard(
    opened: webdriver.Chrome, report: dict[str, Any]
) -> None:
    heading = find(opened, ".sortable th:nth-child(2)")
    assert heading.text.startswith("mean") and heading.get_attribute("aria-sort") is None
    heading.find_element(By.TAG_NAME, "button").click()
    means = {name: row["mean"] for name, row in report["models"].items()}
    names = sorted(means, key=lambda name: -means[name])
    assert heading.get_attribute("aria-sort") == "descending"
    assert texts(opened, ".sortable tbody th") == names
    heading.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert heading.get_attribute("aria-sort") == "ascending"
    assert texts(opened, ".sortable tbody th") == names[::-1]
    first = find(opened, ".sortable th:first-child")
    first.find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert texts(opened, ".sortable tbody th") == sorted(names)
    assert first.get_attribute("aria-sort") == "ascending"
    assert heading.get_attribute("aria-sort") is None


def test_samples_are_sorted_by_model_joint_and_order(
    opened: webdriver.Chrome, samples: SampleSet, predicted: dict[str, PredictedJoints]
) -> None:
    measured = sample_errors(samples, predicted)
    find(opened, "#more").click()
    shown = shown_ids(opened)
    assert set(shown) <= set(samples.ids) and len(shown) > 24

    def expected(key_N: Any) -> list[str]:
        keys = dict(zip(samples.ids, np.round(key_N, 3), strict=True))
        return sorted(shown, key=lambda name: keys[name])

    def assert_ordered(key_N: Any) -> None:
        keys = dict(zip(samples.ids, key_N, strict=True))
        sorted_keys = [keys[name] for name in shown_ids(opened)]
        assert len(sorted_keys) == len(shown)
        assert (np.diff(sorted_keys) >= -1.5e-3).all()  # the page has three decimals
        assert expected(key_N)[0] == shown_ids(opened)[0]

    assert_ordered(-measured.means["student"])
    choose(opened, "joint", "left wrist")
    wrist = samples.skeleton.joints.index("left wrist")
    assert_ordered(-measured.errors["student"][:, wrist])
    worst = find(opened, ".cards li:not([hidden]) .score").text
    assert worst == f"left wrist {measured.errors['student'][:, wrist].max():.2f}"
    choose(opened, "model", "labels-only")
    choose(opened, "order", "smallest error")
    assert_ordered(measured.errors["labels-only"][:, wrist])
    choose(opened, "order", "nearest to median")
    errors_N = measured.errors["labels-only"][:, wrist]
    assert_ordered(abs(errors_N - np.median(errors_N)))
    choose(opened, "joint", "all (mean)")
    assert not find(opened, ".layer.teacher").is_displayed()
    choose(opened, "order", "disagreement of teacher and label")
    assert find(opened, ".cards li:first-child .layer.teacher").is_displayed()
    against = disagreements(measured.errors["teacher"], predicted["teacher"].peaks_NK)
    assert_ordered(-against.max(axis=1))
    assert texts(opened, "[role=status]") == [
        f"{len(shown)} of {len(shown)} samples: disagreement of teacher and label."
    ]


def test_the_chosen_models_prediction_is_drawn(opened: webdriver.Chrome) -> None:
    drawn = ".cards li:first-child .prediction:not(.other) .limbs"
    paths = opened.execute_script(
        "return [...document.querySelectorAll('.cards li:first-child .prediction .limbs')]"
        ".map(e => e.getAttribute('d'))"
    )
    assert len(set(paths)) == 3
    assert find(opened, drawn).get_attribute("d") == paths[2]  # the student, after labels-only
    choose(opened, "order", "smallest error")
    choose(opened, "model", "teacher")
    find(opened, "#more").click()
    assert len(texts(opened, ".layer.prediction:not(.other)")) == len(shown_ids(opened))


@pytest.mark.parametrize("layer", ["prediction", "label", "teacher"])
def test_layers_are_switched_by_mouse_and_by_keyboard(opened: webdriver.Chrome, layer: str) -> None:
    drawing = find(opened, f".cards li:first-child .layer.{layer}:not(.other)")
    box = find(opened, f"[data-layer={layer}]")
    before = layer != "teacher"  # hidden at first
    assert drawing.is_displayed() == box.is_selected() == before
    box.click()
    assert drawing.is_displayed() is not before
    box.send_keys(Keys.SPACE)
    assert drawing.is_displayed() is before


def test_a_card_opens_by_enter_shows_its_errors_and_closes(
    opened: webdriver.Chrome, samples: SampleSet, predicted: dict[str, PredictedJoints]
) -> None:
    names = shown_ids(opened)
    card = find(opened, ".cards li:first-child button")
    card.send_keys(Keys.ENTER)
    dialog = find(opened, "dialog")
    assert dialog.is_displayed()
    assert find(opened, "#sample-title").text == names[0]
    errors_NK = sample_errors(samples, predicted).errors["student"]
    index = samples.ids.index(names[0])
    cells = texts(opened, "dialog tbody td:nth-child(4)")[1:]
    assert [float(cell.split()[0]) for cell in cells] == pytest.approx(
        errors_NK[index].tolist(), abs=0.006
    )
    assert [cell.endswith("*") for cell in cells] == (errors_NK[index] > 0.2).tolist()
    image = find(opened, "#sample-picture svg")
    assert image.size["width"] > 300 and image.accessible_name.startswith(names[0])
    find(opened, "#next").click()
    assert find(opened, "#sample-title").text == names[1]
    dialog.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert find(opened, "#sample-title").text not in names[:24]
    dialog.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert opened.switch_to.active_element == card


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_vertically_only(opened: webdriver.Chrome, scheme: str) -> None:
    view(opened, PHONE, scheme)
    opened.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert opened.execute_script("return document.documentElement.scrollWidth") == 360
    for text in opened.find_elements(By.CSS_SELECTOR, ".chart svg text")[:20]:
        assert text.rect["height"] >= 10  # pixels of the screen
    find(opened, ".cards button").click()
    assert opened.execute_script("return document.documentElement.scrollWidth") == 360
    assert find(opened, "dialog").rect["width"] <= 360
    assert opened.execute_script(
        "const d = document.querySelector('dialog');return d.scrollWidth <= d.clientWidth"
    )


CHART_TEXTS = (
    "return [...document.querySelectorAll('.chart svg text')]"
    ".map(e => [e.getScreenCTM(), parseFloat(getComputedStyle(e).fontSize)])"
    ".map(([to_screen, size]) => Math.hypot(to_screen.a, to_screen.b) * size)"
)


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_all_charts_and_legends_have_one_type_size(
    opened: webdriver.Chrome, size: tuple[int, int]
) -> None:
    view(opened, size)
    sizes = opened.execute_script(CHART_TEXTS)
    legend = float(find(opened, ".legend").value_of_css_property("font-size")[:-2])
    assert len(sizes) > 50 and max(sizes) - min(sizes) < 0.1
    assert 0.85 * legend <= min(sizes) <= max(sizes) <= 1.05 * legend


LEADING_PX = 3
"""Empty pixels at the edges of a text's box."""


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_letters_of_a_chart_do_not_overlap(opened: webdriver.Chrome, size: tuple[int, int]) -> None:
    view(opened, size)
    for chart in opened.find_elements(By.CSS_SELECTOR, ".chart > [role=img] > svg"):
        boxes = [text.rect for text in chart.find_elements(By.TAG_NAME, "text")]
        for one, other in itertools.combinations(boxes, 2):
            apart = [
                one[at] + one[length] <= other[at] + LEADING_PX
                or other[at] + other[length] <= one[at] + LEADING_PX
                for at, length in (("x", "width"), ("y", "height"))
            ]
            assert any(apart), (one, other)
    labels = texts(opened, ".chart.cost svg text")
    assert {"teacher", "labels-only", "student"} <= set(labels)


def test_a_wide_table_says_how_many_columns_are_out_of_sight(opened: webdriver.Chrome) -> None:
    table = "#models .scroll"
    hint = find(opened, "#models .hint")
    assert not hint.is_displayed()  # all columns are seen
    view(opened, PHONE)
    count = len(opened.find_elements(By.CSS_SELECTOR, f"{table} thead th"))
    wait = WebDriverWait(opened, 10)
    wait.until(lambda _: hint.is_displayed())
    hidden = int(re.findall(r"Scroll sideways: (\d+) more columns \u2192", hint.text)[0])
    assert 5 <= hidden < count - 1
    assert find(opened, table).rect["width"] <= PHONE[0]
    opened.execute_script("arguments[0].scrollLeft = 1e6", find(opened, table))
    wait.until(lambda _: re.fullmatch(r"Scroll sideways: \u2190 \d+ more columns", hint.text))
    last = find(opened, f"{table} thead th:last-child").rect
    assert last["x"] + last["width"] <= PHONE[0]


def test_a_model_has_its_color_in_charts_and_over_photographs(opened: webdriver.Chrome) -> None:
    """That of a dark background: the same series, in the same order."""
    view(opened, DESKTOP, "dark")
    for number, name in enumerate(("teacher", "labels-only", "student")):
        choose(opened, "model", name)
        drawn = find(opened, ".cards li:not([hidden]) .layer.prediction:not(.other)")
        color = drawn.value_of_css_property("color")
        assert color.startswith(
            f"rgba({', '.join(map(str, bytes.fromhex(DARK.series[number][1:])))}"
        )
        key = find(opened, f".sortable tbody tr:nth-child({number + 1}) use")
        assert key.get_attribute("href") == f"#series-{number}"


def luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG 2.2 defines it."""
    shares = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    high, low = sorted([luminance(one), luminance(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("scheme", "media"), [("light", ""), ("dark", ""), ("dark", "print")])
def test_contrast_is_sufficient_in_both_schemes_and_in_print(
    opened: webdriver.Chrome, scheme: str, media: str
) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    script = (
        "const probe = document.createElement('i'); document.body.append(probe);"
        "return Object.fromEntries(arguments[0].map(name => {"
        "probe.style.color = `var(--${name})`; return [name, getComputedStyle(probe).color]}))"
    )
    series = [f"s{number}" for number in range(6)]
    colors = opened.execute_script(script, ["paper", "panel", "ink", "soft", "accent", *series])
    assert (luminance(colors["paper"]) > 0.5) is (scheme == "light" or media == "print")
    for text in ("ink", "soft", "accent"):
        for ground in ("paper", "panel"):
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
    for line in series:
        assert contrast(colors[line], colors["paper"]) >= 4.5, line
    body = find(opened, "body")
    assert luminance(body.value_of_css_property("background-color")) == luminance(colors["paper"])
    label = find(opened, ".chart svg text").value_of_css_property("fill")
    assert luminance(label) == luminance(colors["ink"])


NAMED = {"button", "combobox", "checkbox", "image", "link", "table", "region", "dialog", "group"}


def test_controls_and_images_have_accessible_names(opened: webdriver.Chrome) -> None:
    opened.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    nodes = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles: dict[str, list[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            roles.setdefault(node["role"]["value"], []).append(node["name"]["value"])
    for role in NAMED & roles.keys() - {"group"}:
        assert all(roles[role]), (role, roles[role])
    assert {"banner", "main", "contentinfo", "navigation", "status", "image"} <= roles.keys()
    assert len(roles["image"]) == 6 and len(roles["checkbox"]) == 3
    levels = opened.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3')].map(e => Number(e.tagName[1]))"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert max(np.diff(levels)) <= 1
    assert find(opened, "html").get_attribute("lang") == "en"


def test_the_keyboard_reaches_all_controls_with_a_visible_focus(
    opened: webdriver.Chrome,
) -> None:
    script = (
        "const e = document.activeElement, s = getComputedStyle(e);"
        "return [e.id || e.tagName, s.outlineStyle, s.outlineWidth, e.closest('.cards') !== null]"
    )
    reached = set()
    for _ in range(60):
        webdriver.ActionChains(opened).send_keys(Keys.TAB).perform()
        name, style, width, at_cards = opened.execute_script(script)
        assert style != "none" and width == "3px", name
        reached.add(name)
        if at_cards:
            break
    assert {"A", "BUTTON", "SUMMARY", "pick-model", "pick-joint", "pick-order", "INPUT"} <= reached
    assert at_cards


def test_names_of_users_run_no_script(
    browser: webdriver.Chrome, build: Callable[..., str], tmp_path: Path
) -> None:
    evil = "</script><script>hacked=1</script><img src=x onerror=hacked=1>"
    path = tmp_path / "report.html"
    path.write_text(build(6, {"teacher": 0.1, evil: 0.2}, lambda name: name + evil), "utf-8")
    browser.get(path.as_uri())
    find(browser, ".cards button").send_keys(Keys.ENTER)
    assert find(browser, "#sample-title").text.endswith(evil)
    assert browser.execute_script("return typeof hacked") == "undefined"
    # The content security policy also blocks markup that is inserted later.
    browser.execute_script(
        "document.body.append(document.createRange().createContextualFragment(arguments[0]))", evil
    )
    assert browser.execute_script("return typeof hacked") == "undefined"
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]


def test_without_scripts_all_samples_are_shown(browser: webdriver.Chrome, url: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(url)
        assert find(browser, "noscript p").is_displayed()
        cards = browser.find_elements(By.CSS_SELECTOR, ".cards li")
        assert len(cards) > 24 and cards[-1].is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

"""report.html in a real browser: it renders, sorts and filters, makes no request, and names stay text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sweep.leaderboard.board import build
from sweep.report.figures import draw
from sweep.report.html.page import render_page
from tests.conftest import unavailable
from tests.leaderboard.test_board import grid_rows, row, rows

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"></script><script>document.title='hacked'</script>"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900",
         "--disable-background-networking", "--no-first-run", "--force-prefers-reduced-motion")  # fmt: skip


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    """Start Debian's Chromium without a window; nothing is downloaded."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        unavailable("no chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield started
    finally:
        started.quit()


def scene() -> list[dict[str, Any]]:
    found = rows({"0": (0.8, 0.9, 0.85), "1": (0.7, 0.6, 0.65), "10": (0.71, 0.61, 0.6)}, hp_nz=100)
    found += rows({"0": (0.95,), "1": (0.6,), "10": (0.9,)}, "knn")
    found += [
        row(v, setting=f"s{n}", abnormal=c)
        for n, v in enumerate((0.5, 0.55, 0.45, 0.6, 0.52))
        for c in ("0", "1", "10")
    ]
    found += [row(None, "skip_ganomaly", abnormal=c, status="failed") for c in ("0", "1", "10")]
    found += [row(0.4, HOSTILE, abnormal=c, study=HOSTILE, setting=HOSTILE) for c in ("0", "1", "10")]
    return found + [{**one, "study": HOSTILE} for one in grid_rows("nz", {8: 0.5, 32: 0.6})]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page into a folder with no other file."""
    found = scene()
    leaderboard = build(found)
    drawings = list(draw(leaderboard, found, (), lambda _: None))
    text = render_page(
        found, leaderboard, drawings, provenance={"sweep": HOSTILE, HOSTILE: "x"}, spec={HOSTILE: HOSTILE}
    )
    path = tmp_path_factory.mktemp("page") / "report ü.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def opened(chrome: Chrome, file: Path) -> Chrome:
    for kind in ("browser", "performance"):
        log(chrome, kind)  # reading empties the log
    chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    visit(chrome, file)
    return chrome


def visit(chrome: Chrome, file: Path) -> None:
    """Open a page and wait until it is complete; on a busy machine the driver returns before a large page is."""
    from selenium.webdriver.support.wait import WebDriverWait

    chrome.get(file.as_uri())
    there = "return location.href === arguments[0] && document.readyState === 'complete'"
    WebDriverWait(chrome, 60).until(lambda shown: shown.execute_script(there, file.as_uri()))


def find(chrome: Chrome, selector: str) -> WebElement:
    return chrome.find_element("css selector", selector)


def column(chrome: Chrome, selector: str, at: int) -> list[str]:
    """Return the texts of one column of a table, without hidden lines."""
    script = (
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr:not(.heading)')]"
        ".filter(line => !line.hidden).map(line => line.children[arguments[1]].textContent)"
    )
    found: list[str] = chrome.execute_script(script, selector, at)
    return found


def log(chrome: Chrome, kind: str) -> list[dict[str, Any]]:
    """Return the entries that the browser has logged since the last call."""
    entries: list[dict[str, Any]] = chrome.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def complaints(chrome: Chrome) -> list[dict[str, Any]]:
    return [entry for entry in log(chrome, "browser") if entry["level"] in ("SEVERE", "WARNING")]


def test_it_renders_without_a_complaint_and_without_a_request(opened: Chrome, file: Path) -> None:
    assert "leads" in find(opened, "#verdict h3").text
    assert opened.find_elements("css selector", "figure svg")
    assert len(column(opened, "#trial-table", 0)) == len(scene())
    find(opened, "button.cell").click()
    assert complaints(opened) == []
    messages = [json.loads(entry["message"])["message"] for entry in log(opened, "performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {url for url in sent if not url.startswith("data:")} == {file.as_uri()}


def test_names_from_data_stay_text(opened: Chrome) -> None:
    find(opened, f"[data-line='{opened.execute_script(LINE_OF_HOSTILE)}']").click()
    assert HOSTILE in find(opened, "#drill-title").text
    assert "hacked" not in opened.title.replace(HOSTILE, "")
    assert HOSTILE in opened.title
    assert len(opened.find_elements("css selector", "script")) == 2
    assert opened.find_elements("css selector", "img") == []
    assert any(HOSTILE in name for name in column(opened, "[data-sheet]", 0))
    assert complaints(opened) == []


LINE_OF_HOSTILE = (
    "return [...document.querySelectorAll('[data-sheet] tbody tr')]"
    ".find(line => line.children[0].textContent.includes('<img')).querySelector('button.cell').dataset.line"
)


def test_a_board_sorts_by_number_and_back_and_incomplete_lines_stay_last(opened: Chrome) -> None:
    head = find(opened, "[data-sheet] [data-sort='1']")

    def sections() -> list[list[str]]:
        """Return the class means of each section of the first board: trained, without training, incomplete."""
        bodies = opened.find_elements("css selector", "[data-sheet]:first-of-type tbody")
        rows = [body.find_elements("css selector", "tr:not(.heading) td:nth-child(2)") for body in bodies]
        return [[cell.text for cell in cells] for cells in rows]

    head.click()
    trained, untrained, incomplete = sections()
    values = [float(text.split(" ")[0]) for text in trained]
    assert values == sorted(values, reverse=True) and len(values) > 2
    assert untrained[0].startswith("0.817"), "detectors without training stay in their own section"
    assert incomplete[-1].startswith("-"), "a line without a value is last"
    assert find(opened, "[data-sheet] th[aria-sort]").get_attribute("aria-sort") == "descending"
    head.click()
    again = sections()
    assert again[:2] == [trained[::-1], untrained]
    assert set(again[2]) == set(incomplete) and again[2][-1].startswith("-")
    assert find(opened, "[data-sheet] th[aria-sort]").get_attribute("aria-sort") == "ascending"


@pytest.mark.parametrize("key", ["\ue007", " "])  # Enter, space
def test_the_keyboard_sorts(opened: Chrome, key: str) -> None:
    head = find(opened, "#trial-table th:nth-child(6) button")
    assert head.text == "class"
    opened.execute_script("arguments[0].focus()", head)
    head.send_keys(key)
    classes = column(opened, "#trial-table", 5)
    assert classes == sorted(classes, key=int), "10 comes after 1"
    assert find(opened, "#trial-table th[aria-sort]").text == "class"
    assert opened.execute_script("return document.activeElement === arguments[0]", head)


def test_filters_leave_the_lines_that_hold_every_word(opened: Chrome) -> None:
    find(opened, "#trial-filter").send_keys("GANOMALY failed")
    assert set(column(opened, "#trial-table", 0)) == {"skip_ganomaly"}
    assert find(opened, "#trial-count").text == f"3 of {len(scene())} trials, 3 shown"
    find(opened, "[data-filter]").send_keys("knn")
    assert column(opened, "[data-sheet]:first-of-type", 0) == ["knn"]
    assert find(opened, "[data-count]").text.startswith("1 of")


def test_a_number_opens_its_trials_and_escape_comes_back(opened: Chrome) -> None:
    cell = find(opened, "button.cell[data-class='0']")
    opened.execute_script("arguments[0].focus()", cell)
    cell.send_keys("\ue007")
    assert find(opened, "#drill").get_attribute("open") is not None
    assert find(opened, "#drill-title").text == "ganomaly repo_head on digits D1, 0 abnormal"
    assert column(opened, "#drill-table", 4 + 1) == ["0.8000", "0.9000", "0.8500"]
    assert find(opened, "#drill-settings").text == "nz=100"
    find(opened, "#drill .close").send_keys("\ue00c")
    assert find(opened, "#drill").get_attribute("open") is None
    assert opened.execute_script("return document.activeElement === arguments[0]", cell)


def test_everything_has_a_name_for_those_who_listen(opened: Chrome) -> None:
    nameless = (
        "return [...document.querySelectorAll('button, input, figure, [role=region], dialog, nav')]"
        ".filter(e => !(e.textContent.trim() && e.matches('button')) && !e.ariaLabel && !e.labels?.length"
        " && !e.getAttribute('aria-labelledby')).map(e => e.outerHTML.slice(0, 80))"
    )
    assert opened.execute_script(nameless) == []
    dangling = (
        "return [...document.querySelectorAll('[aria-labelledby], [aria-describedby]')].flatMap(e =>"
        " [e.getAttribute('aria-labelledby'), e.getAttribute('aria-describedby')])"
        ".filter(id => id && !document.getElementById(id))"
    )
    assert opened.execute_script(dangling) == []
    headless = "return [...document.querySelectorAll('th')].filter(e => !e.scope).length"
    assert opened.execute_script(headless) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes_and_on_a_phone(opened: Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 360
    assert opened.execute_script("return document.querySelector('figure svg').getBoundingClientRect().width") > 500
    paper = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) > 0.5) == (scheme == "light")
    for selector in (
        "h1",
        ".hint",
        ".caption",
        "figcaption",
        "nav a",
        ".holes h3",
        ".best",
        ".card p",
        "thead th button",
    ):
        colour, ground = opened.execute_script(COLOURS, find(opened, selector))
        bright, dim = sorted((luminance(colour), luminance(ground)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, selector


COLOURS = (
    "let e = arguments[0]; const colour = getComputedStyle(e).color;"
    "while (e && getComputedStyle(e).backgroundColor === 'rgba(0, 0, 0, 0)') e = e.parentElement;"
    "return [colour, getComputedStyle(e).backgroundColor]"
)


def luminance(colour: str) -> float:
    """Return the relative luminance of "rgb(r, g, b)" (WCAG 2)."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_ten_thousand_trials_stay_usable(chrome: Chrome, tmp_path: Path) -> None:
    found = [
        row(0.5 + s / 1000 + n / 10_000, setting=f"s{n}", abnormal=str(c), seed=s, key=f"{n:04x}{c}{s}")
        for n in range(200)
        for c in range(10)
        for s in range(5)
    ]
    path = tmp_path / "large.html"
    path.write_text(render_page(found, build(found)), encoding="utf-8")
    visit(chrome, path)
    assert len(column(chrome, "#trial-table", 0)) == 50
    find(chrome, "#trial-filter").send_keys("s199")
    assert find(chrome, "#trial-count").text == "50 of 10,000 trials, 50 shown"
    assert set(column(chrome, "#trial-table", 2)) == {"s199"}
    find(chrome, "#trial-filter").clear()
    find(chrome, "#trial-filter").send_keys(" ")
    find(chrome, "#trial-more").click()
    assert len(column(chrome, "#trial-table", 0)) == 100

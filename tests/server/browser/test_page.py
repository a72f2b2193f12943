"""The page in Chromium around the tasks: copying, errors, keys, dark, narrow, by keyboard, for screen readers."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys


def test_what_can_be_copied(page: Any, case: tuple[str, str]) -> None:
    """The command of every example answers as the page did; the parts of the time make up the whole."""
    page.choose(*case)
    assert page.read("answer") == page.read("timing") == "Not sent yet."
    page.send()
    command, shown = page.read("curl"), page.read("answer")
    again = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True).stdout
    assert again[:20000] == shown[:20000]
    timing = json.loads(page.read("timing"))
    assert timing["tokens"] > 0
    assert timing["total"] == pytest.approx(sum(timing[part] for part in ("tokenize", "queue", "compute", "rest")),
                                            abs=0.01)  # fmt: skip
    widths = page.run("return [...document.querySelectorAll('.stack span')].map(span => "
                      "[span.className, span.getBoundingClientRect().width])")  # fmt: skip
    whole = sum(width for _, width in widths)
    for name, width in widths:
        assert width / whole == pytest.approx(timing[name] / timing["total"], abs=0.02)


def test_copying(page: Any) -> None:
    page.command("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.choose("nli")
    page.one("#copy").click()
    page.until(lambda: page.texts("#copy") == ["Copied"])
    assert page.run("return navigator.clipboard.readText()") == page.read("curl")
    page.run("navigator.clipboard.writeText = () => Promise.reject(new Error('no'))")
    page.one("#copy").click()
    page.until(lambda: page.texts("#copy") == ["Selected"])
    assert page.run("return String(getSelection())") == page.read("curl")


def test_errors_are_shown_as_the_server_says_them(page: Any) -> None:
    page.choose("nli")
    for values, words in (({"top_k": "-1"}, "422 InvalidParametertext-classification: top_k must be "),
                          ({"top_k": "", "text": "a " * 600}, "422 TooLongthe text has ")):  # fmt: skip
        page.fill(**values)
        page.send()
        [shown] = page.texts("#answer [role='alert']")
        assert shown.startswith(words)
        assert json.loads(page.read("answer"))["error"] in shown
        assert page.texts("#latency .total") == ["No answer yet."]
    page.fill(truncation=True)
    page.send()
    assert len(page.bars()) == 3
    assert all("status of 422" in words for words in page.complaints())


def test_a_server_with_a_key_and_one_that_is_gone(serve: Any, folder_of: Callable[..., Path], page: Any) -> None:
    server = serve("--model", str(folder_of("DistilBertForMaskedLM")), "--api-key", "secret")
    page.url = server.url
    page.open()
    assert page.texts("#status") == ["ready"]
    assert not page.one("#model").is_displayed()
    assert page.one("#model-name").is_displayed()
    page.send()
    assert page.texts("#answer [role='alert'] strong") == ["401 Unauthorized"]
    page.one("#key").send_keys("secret")
    assert "Bearer $" in page.read("curl")
    assert "secret" not in page.read("curl")
    page.send()
    page.until(lambda: len(page.bars()) == 5)
    server.end()
    page.until(lambda: page.texts("#status")[0].startswith("not reachable"))
    page.one("#send").click()
    page.until(lambda: page.texts("#answer strong") == ["The server did not answer"])


@pytest.mark.parametrize("width", [360, 700, 1200, 2200])
def test_nothing_is_wider_than_the_window(page: Any, cases: Any, width: int) -> None:
    page.size(width)
    for model, task in cases:
        page.choose(model, task)
        page.send()
        assert page.run("return document.documentElement.scrollWidth") <= width
        script = """return [...document.querySelectorAll('main *')].filter(each => {
            const box = each.getBoundingClientRect();
            return box.width && !each.closest('.unseen') && (box.right > innerWidth + 1 || box.left < -1);
        }).map(each => each.outerHTML.slice(0, 200))"""
        assert page.run(script) == []


CONTRAST = """
const parse = text => (text.match(/[\\d.]+/g) ?? []).map(Number);
const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = node => {
    for (; node; node = node.parentElement) {
        const colour = parse(getComputedStyle(node).backgroundColor);
        if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
};
return [...document.querySelectorAll('body *')].filter(node => [...node.childNodes].some(child =>
    child.nodeType === 3 && child.data.trim()) && node.checkVisibility() && !node.closest('option, .unseen, noscript'))
    .map(node => {
        const [one, other] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
        return [(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), node.outerHTML.slice(0, 120)];
    }).filter(([contrast]) => contrast < 4.5)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(page: Any, cases: Any, scheme: str) -> None:
    page.scheme(scheme)
    ground = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 382) == (scheme == "light")
    for model, task in cases:
        page.choose(model, task)
        page.send()
        page.run("document.activeElement.blur()")
        assert page.run(CONTRAST) == []


def test_by_keyboard_alone(page: Any) -> None:
    """From the top: model, task by arrows, text, and sending from inside it."""
    press = ActionChains(page.browser).send_keys
    page.run("document.activeElement.blur()")
    for _ in range(10):
        press(Keys.TAB).perform()
        if page.run("return document.activeElement.id") == "model":
            break
    press("encoder").perform()
    press(Keys.TAB).perform()
    assert page.run("return document.activeElement.name") == "task"
    press(Keys.ARROW_RIGHT).perform()
    assert page.run("return document.activeElement.value") == "sentence-similarity"
    press(Keys.TAB, Keys.TAB).perform()
    assert page.run("return document.activeElement.id") == "field-sentences"
    ActionChains(page.browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    page.until(lambda: len(page.all("#answer .bars li")) == 3)


def test_every_control_has_a_name(page: Any, cases: Any) -> None:
    for model, task in cases:
        page.choose(model, task)
        page.send()
        tree = page.command("Accessibility.getFullAXTree")["nodes"]
        roles = ("button", "checkbox", "combobox", "textbox", "spinbutton", "radio", "img", "link", "group", "region")
        found = [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
        assert len(found) > 15
        assert [node["role"]["value"] for node in found if not node.get("name", {}).get("value")] == []
    ids = [each.get_attribute("id") for each in page.browser.find_elements(By.CSS_SELECTOR, "[id]")]
    assert len(ids) == len(set(ids))


def test_what_is_filled_in_stays(page: Any) -> None:
    page.choose("nli")
    page.fill(text="Kept.")
    page.choose("nli", "zero-shot-classification")
    page.choose("nli", "text-classification")
    assert page.one("#field-text").get_property("value") == "Kept."


def test_nothing_jumps_when_an_answer_comes(page: Any) -> None:
    place = "return [...document.querySelectorAll('main > *')].map(each => each.getBoundingClientRect().top + scrollY)"
    page.choose("encoder", "sentence-similarity")
    before = page.run(place)
    page.send()
    assert page.run(place) == before


def test_numbers_that_round_up(page: Any) -> None:
    """A number that rounds up to 1, 10 or 100 is written as those are."""
    values = [0.99998, 1, 1.00002, 9.9998, 9.9, 99.97, 12.34, 4500, -0.99999, 0.5, 0.00005]
    script = "const [values] = arguments; return import('/static/dom.js').then(dom => values.map(dom.number))"
    shown = page.run(script, values)
    assert shown == ["1.000", "1.000", "1.000", "10", "9.900", "100", "12.3", "4,500", "-1.000", "0.5000", "5.0e-5"]

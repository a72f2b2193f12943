"""The live plots in Chromium: lines, rates and quantiles, and no questions while nobody looks."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from typing import Any

from distilrt.runtime.counters import FINE_SECONDS


def sent(url: str, count: int) -> None:
    for _ in range(count):
        urllib.request.urlopen(url, json.dumps({"inputs": "a b c d"}).encode()).read()


def test_live_plots(page: Any) -> None:
    page.choose("tokens")
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            sent(page.url + "models/tokens", 20)
            time.sleep(0.02)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        page.until(lambda: "–" not in "".join(page.texts("#plots .value")))
        page.until(lambda: page.texts("#plots .value")[1] != "0")
        page.until(lambda: all(path.count(" L") >= 2 for path in lines(page)))
    finally:
        stop.set()
        thread.join()
    names = [svg.get_attribute("aria-label") for svg in page.all("#plots svg")]
    assert names[1].startswith("Requests a second in the last minute: answered ")
    page.choose("masks")  # whose numbers are its own
    assert page.texts("#plots .value")[1] in ("0", "–")
    assert page.complaints() == []


FEIGNED = """
const real = window.fetch;
let k = 0;
window.fetch = async (address, options) => {
    const response = await real(address, options);
    if (address !== 'stats') return response;
    const stats = await response.json();
    k += 1;
    stats.seconds = 1e9 + 2 * k;
    for (const model of stats.models) {
        model.queue.tokens = 77;
        model.requests = {answered: 10 * k, shed: k, expired: k, cancelled: 9 * k};
        model.computed_tokens = 1e6 + 9000 * k;
        model.request_seconds.counts = model.request_seconds.counts.map((_, i) => ({40: 90 * k, 60: 10 * k})[i] ?? 0);
    }
    return new Response(JSON.stringify(stats));
};"""


def test_rates_and_quantiles(page: Any) -> None:
    """Of counters that rise as feigned: 2 seconds between samples, 90 of 100 answers in one range, 10 in another."""
    page.run(FEIGNED)
    p50 = FINE_SECONDS[39] + (FINE_SECONDS[40] - FINE_SECONDS[39]) * 50 / 90
    p99 = FINE_SECONDS[59] + (FINE_SECONDS[60] - FINE_SECONDS[59]) * 9 / 10
    expected = ["77", "5", "1", "4,500", f"{1000 * p50:.2f} ms", f"{1000 * p99:.1f} ms"]
    page.until(lambda: page.texts("#plots .value") == expected)
    assert page.texts("#plots .axis span:nth-child(2)") == ["up to 100", "up to 5", "up to 5,000", "up to 50 ms"]


def lines(page: Any) -> list[str]:
    return list(page.run("return [...document.querySelectorAll('#plots .line')].map(path => path.getAttribute('d'))"))


def test_nobody_is_asked_while_the_page_is_hidden(page: Any) -> None:
    def asked() -> int:
        script = "return performance.getEntriesByType('resource').filter(one => one.name.endsWith('/stats')).length"
        return int(page.run(script))

    page.until(lambda: asked() >= 3)
    show = """Object.defineProperty(document, 'hidden', {value: arguments[0], configurable: true});
        document.dispatchEvent(new Event('visibilitychange'))"""
    page.run(show, True)
    time.sleep(0.5)  # for the one on its way
    before = asked()
    time.sleep(2.5)
    assert asked() == before
    page.run(show, False)
    page.until(lambda: asked() >= before + 2)

"""The HTML pages: whole in one file, closed to whatever stands in comments, and working in a real browser."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluated import comments, reviewmill, write_rows
from reviewmill.evaluate.html import report_page
from reviewmill.evaluate.report import read_report
from stub_endpoint import StubEndpoint

HOSTILE = [
    '<script>document.title="owned"</script>差',
    '"><img src=x onerror="document.title=\'owned\'">太差',
    "</style></script><svg onload=alert(1)>不好",
    "{{ 7*7 }}{% include '/etc/passwd' %}差",
    "<!-- 差 -->\u202e\u0000 慢",
    "javascript:alert(1) 差 &lt;b&gt; &#60;i&#62;",
    "$\\frac{1}{0}$ 差 ]]> </svg>",
]

TASK = """
name = "mood"
description = "<b>情绪</b>"
labels = [ { name = "good & fine", definition = "好" }, { name = "b'a$d$", definition = "差" } ]
"""


class Elements(HTMLParser):
    """All tags with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A report, a comparison and a report of a task with odd label names, over hostile comments."""
    folder = tmp_path_factory.mktemp("pages")
    rows = [row | {"<u>col</u>": "<i>x</i>" if n % 2 else "y&z"} for n, row in enumerate(comments(60, 60, 20, wrong=9))]
    rows += [{"text": text, "label": "positive", "id": f"<a href=x>{n}</a>"} for n, text in enumerate(HOSTILE)]
    path = write_rows(folder / "<b>rows&.jsonl", rows)
    odd = write_rows(folder / "odd.jsonl", [row | {"label": "good & fine"} for row in comments(20, 20)])
    (folder / "mood.toml").write_text(TASK)
    cache = ("--cache", f"sqlite:{folder / 'cache.db'}")
    with pytest.MonkeyPatch.context() as patch, StubEndpoint() as stub:
        patch.setenv("REVIEWMILL_CACHE_DIR", str(folder / "cache"))
        common = ("--label", "label", "--endpoint", stub.url, *cache)
        reviewmill("evaluate", path, *common, "-o", folder / "report.html")
        reviewmill("evaluate", odd, *common, "--task", folder / "mood.toml", "-o", folder / "odd.html")
        reviewmill("compare", path, *common, "--baseline", "plain", "-o", folder / "compare.html")
    return {name: folder / f"{name}.html" for name in ("report", "odd", "compare")}


NAMES = ("report", "odd", "compare")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_loaded_and_nothing_injected(pages, name: str) -> None:
    page = pages[name].read_text(encoding="utf-8")
    elements = Elements(page).found
    for tag, attributes in elements:
        assert tag not in {"iframe", "object", "embed", "img", "base", "form"}, tag
        assert not any(attribute.startswith("on") for attribute in attributes), (tag, attributes)
        assert "style" not in attributes, (tag, attributes)
        for attribute in ("src", "href", "xlink:href", "action", "srcset"):
            value = attributes.get(attribute) or "#"
            assert value.startswith("#") or value == "data:,", (tag, attributes)
    assert [tag for tag, _ in elements].count("script") == 1
    assert [tag for tag, _ in elements].count("style") == 1
    assert "default-src 'none'" in page
    assert "unsafe" not in page
    assert not re.search(r"@import|url\(\s*['\"]?http", page)
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert {*ids} >= {"errors"}


def test_hostile_texts_are_shown_as_they_are(pages) -> None:
    page = re.sub("</?mark>", "", pages["report"].read_text(encoding="utf-8"))
    assert "&lt;script&gt;document.title=&#34;owned&#34;&lt;/script&gt;" in page
    assert "{{ 7*7 }}" in page
    assert "&lt;b&gt;rows&amp;.jsonl" in page
    assert "&lt;u&gt;col&lt;/u&gt;" in page


def test_odd_labels_are_text_in_plots_too(pages) -> None:
    page = pages["odd"].read_text(encoding="utf-8")
    assert "good &amp; fine" in page
    assert "b&#39;a$d$" in page


def test_both_languages_say_the_same_things(pages) -> None:
    page = pages["report"].read_text(encoding="utf-8")
    english, chinese = page.count('class="en"'), page.count('class="zh"')
    assert english == chinese > 60


def test_a_long_list_is_cut_and_says_so(pages, monkeypatch) -> None:
    report = read_report(pages["report"])
    monkeypatch.setattr("reviewmill.evaluate.html.MOST_ERRORS", 5)
    monkeypatch.setattr("reviewmill.evaluate.html.LONGEST_TEXT", 4)
    page = report_page(report)
    assert page.count("<li data-pair") == 5
    assert "the JSON has all" in page
    assert "…" in page


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


CUT_OFF = """
[...document.querySelectorAll("svg.plot text")].filter(text => {
  const inner = text.getBoundingClientRect(), outer = text.ownerSVGElement.getBoundingClientRect();
  return inner.left < outer.left || inner.right > outer.right || inner.top < outer.top || inner.bottom > outer.bottom;
}).map(text => text.textContent)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_a_browser(pages, browser, name: str) -> None:
    """Offline, on a telephone and on a desk: nothing is requested, refused or owned, and nothing sticks out."""
    for width, locale in ((390, "zh-CN"), (1280, "en-GB")):
        context = browser.new_context(viewport={"width": width, "height": 800}, locale=locale, offline=True)
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(pages[name].as_uri())
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]
        assert "owned" not in page.title()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CUT_OFF) == []
        heading = page.locator("h2").first.inner_text()
        assert bool(re.search("[\u4e00-\u9fff]", heading)) == (locale == "zh-CN"), heading
        page.get_by_role("button", name="English" if locale == "zh-CN" else "中文").click()
        assert page.locator("h2").first.inner_text() != heading
        context.close()


@pytest.mark.slow
def test_errors_are_searched_and_filtered(pages, browser) -> None:
    page = browser.new_page()
    page.goto(pages["report"].as_uri())
    expect = pytest.importorskip("playwright.sync_api").expect  # its own waiting: the page allows no eval
    rows = page.locator("#list > li")
    total = rows.count()
    assert total > 9
    page.fill("#search", "OWNED")
    shown = page.locator("#shown")
    expect(shown).to_have_text(f"2 / {total}")
    assert page.locator("#list > li:visible").count() == 2
    page.fill("#search", "")
    page.locator("a[data-pair]", has_text="9").first.click()
    expect(shown).to_have_text(f"9 / {total}")
    assert page.locator("#list > li:visible .gold").all_inner_texts() == ["negative"] * 9
    page.select_option("#pair", "")
    expect(shown).to_have_text(f"{total} / {total}")

"""People at the real Open WebUI, in a real browser: sign in, ask, attach, go on asking, correct, export, look around.

Screenshots are kept in `artefacts/chat/`.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import xlsxwriter
from playwright.sync_api import expect, sync_playwright

from chat_process import RealChat, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Locator, Page

pytestmark = [pytest.mark.slow, pytest.mark.chat]

SHOTS = Path(__file__).parents[1] / "artefacts" / "chat"
COMMENTS = ["很好用，物流也快", "屏幕有划痕，很差", "是蓝色的", "客服态度差", "质量很好，推荐", "包装差，退货了"]
PATIENCE_MS = 60_000
MOST_AFTER_ANALYSIS_S = 5.0


@pytest.fixture(scope="module")
def browser(real_chat: RealChat) -> Iterator[Browser]:
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    SHOTS.mkdir(parents=True, exist_ok=True)
    # Root's Chromium has no sandbox; it shows nothing but our own pages.
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


class Visitor:
    """Somebody at the browser, signed in.

    Attributes:
        page: what they see.
        hosts: the hosts that their browser asked.
    """

    def __init__(self, browser: Browser, chat: RealChat, email: str, locale: str = "en-US") -> None:
        self.email = email
        self.hosts: set[str] = set()
        self._url = chat.process.url
        password = chat.account(email)
        context = browser.new_context(viewport={"width": 1280, "height": 900}, locale=locale, accept_downloads=True)
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        context.on("request", lambda request: self.hosts.add(request.url.split("/")[2] or request.url[:40]))
        self.page.goto(self._url)
        self.page.locator("input[name=email]").fill(email)
        self.page.locator("input[type=password]").fill(password)
        self.page.keyboard.press("Enter")
        self.page.locator("#chat-input").wait_for()

    def new_chat(self) -> None:
        self.page.goto(self._url)
        self.page.locator("#chat-input").wait_for()

    def say(self, text: str, *, expected: str | re.Pattern[str]) -> Locator:
        """Send a message and wait for an answer that says something; return that answer."""
        answers = self.page.locator(".chat-assistant")
        before = answers.count()
        self.page.locator("#chat-input").click()
        self.page.keyboard.insert_text(text)
        self.page.keyboard.press("Enter")
        expect(answers).to_have_count(before + 1, timeout=PATIENCE_MS)
        answer = answers.nth(before)
        expect(answer).to_contain_text(expected, timeout=PATIENCE_MS)
        # The buttons under an answer come when it is complete.
        self.page.locator("button[aria-label='Regenerate']").last.wait_for()
        return answer

    def attach(self, path: Path) -> None:
        circles = self.page.locator(".spinner_ajPY")
        before = circles.count()  # one is hidden in the page
        self.page.locator("input[type=file]:not([accept])").first.set_input_files(path)
        self.page.get_by_text(path.name).first.wait_for()
        # It has been read when its circle is gone.
        expect(circles).to_have_count(before, timeout=PATIENCE_MS)

    def confirm(self) -> None:
        self.page.get_by_role("dialog").get_by_role("button", name="Confirm").click()

    def shot(self, name: str) -> None:
        time.sleep(0.5)  # what fades in is there then
        self.page.screenshot(path=SHOTS / f"{name}.png")


@pytest.fixture(scope="module")
def li(browser: Browser, real_chat: RealChat) -> Visitor:
    return Visitor(browser, real_chat, "li.na@example.com")


def csv_file(path: Path, rows: int) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["编号", "评论"])
        writer.writerows([n, f"{COMMENTS[n % len(COMMENTS)]}，第{n}单"] for n in range(1, rows + 1))
    return path


def corrections(chat: RealChat) -> list[dict[str, Any]]:
    with chat.process.service() as http:
        items: list[dict[str, Any]] = http.get("/v1/corrections").json()["items"]
        return items


def test_the_first_page_says_what_to_do_in_chinese(browser: Browser, real_chat: RealChat) -> None:
    zhang = Visitor(browser, real_chat, "zhang@example.com", locale="zh-CN")
    expect(zhang.page.get_by_text("reviewmill-sentiment").first).to_be_visible()
    expect(zhang.page.get_by_text("判断一条评论")).to_be_visible()
    zhang.shot("first-page-zh")
    answer = zhang.page.locator(".chat-assistant")
    zhang.page.locator("#chat-input").click()
    zhang.page.keyboard.insert_text("这个手机拍照太差了，根本不像宣传那样清晰。")
    zhang.page.keyboard.press("Enter")
    expect(answer).to_contain_text("关键词", timeout=PATIENCE_MS)
    expect(answer).to_contain_text("负面")
    zhang.shot("one-comment-zh")


def test_several_lines_give_a_table_and_one_question_each(li: Visitor, real_chat: RealChat) -> None:
    before = len(real_chat.stub.requests)
    answer = li.say("Great sound, love it\nThe screen is bad\nIt is blue", expected="The screen is bad")
    expect(answer.locator("tbody tr")).to_have_count(3)
    li.shot("table")
    time.sleep(3)  # by then titles and the like would have been asked for
    assert len(real_chat.stub.requests) == before + 3


def test_a_label_is_corrected_with_a_form(li: Visitor, real_chat: RealChat) -> None:
    li.new_chat()
    li.say("送货很慢\n包装很好", expected="包装很好")
    li.page.get_by_label("Correct this label").last.click()
    li.page.get_by_role("dialog").locator("textarea").fill("2")
    li.shot("correct-1-row")
    li.confirm()
    choice = li.page.get_by_role("dialog").locator("select")
    choice.wait_for()
    expect(li.page.get_by_role("dialog")).to_contain_text("包装很好")
    choice.select_option("neutral")
    li.shot("correct-2-label")
    li.confirm()
    note = li.page.get_by_role("dialog").locator("textarea")
    note.fill("只说包装")
    li.shot("correct-3-note")
    li.confirm()
    expect(li.page.get_by_text("Kept: neutral")).to_be_visible()
    li.shot("correct-4-kept")
    kept = next(one for one in corrections(real_chat) if one["text"] == "包装很好")
    assert (kept["label"], kept["note"], kept["author"]) == ("neutral", "只说包装", li.email)
    assert kept["model_label"] == "positive"

    # The same again, with another label: it replaces, and no dialog about the row where there is one only.
    count = len(corrections(real_chat))
    li.page.get_by_label("Correct this label").last.click()
    li.page.get_by_role("dialog").locator("textarea").fill("2")
    li.confirm()
    li.page.get_by_role("dialog").locator("select").select_option("negative")
    li.confirm()
    li.page.get_by_role("dialog").locator("textarea").wait_for()
    li.confirm()
    until(lambda: next(c for c in corrections(real_chat) if c["text"] == "包装很好")["label"] == "negative", 20)
    assert len(corrections(real_chat)) == count


def test_a_dialog_that_is_closed_and_a_row_that_is_none_keep_nothing(li: Visitor, real_chat: RealChat) -> None:
    before = corrections(real_chat)
    li.page.get_by_label("Correct this label").last.click()
    li.page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    li.page.get_by_label("Correct this label").last.click()
    li.page.get_by_role("dialog").locator("textarea").fill("77")
    li.confirm()
    expect(li.page.get_by_text("rows are 1 to 2")).to_be_visible()
    assert corrections(real_chat) == before


def test_a_thumb_with_a_comment_becomes_a_correction(li: Visitor, real_chat: RealChat) -> None:
    li.new_chat()
    li.say("屏幕很好，就是太重。", expected="%")
    # Open WebUI sends a thumb a second time by itself; were that still on its way, it could overtake the comment.
    with li.page.expect_response(re.compile(r"/evaluations/feedback/[^/]+$")):
        li.page.get_by_label("Bad Response").last.click()
    li.page.get_by_placeholder("Feel free to add specific details").fill("should be neutral")
    li.shot("thumb")
    li.page.get_by_role("button", name="Save", exact=True).click()
    until(lambda: any(c["text"] == "屏幕很好，就是太重。" for c in corrections(real_chat)), 60)
    kept = next(one for one in corrections(real_chat) if one["text"] == "屏幕很好，就是太重。")
    assert (kept["label"], kept["author"], kept["note"]) == ("neutral", li.email, "should be neutral")


def test_a_csv_file_is_analysed_whole_and_asked_about(li: Visitor, real_chat: RealChat, tmp_path: Path) -> None:
    li.new_chat()
    li.attach(csv_file(tmp_path / "reviews.csv", 60))
    li.shot("csv-attached")
    answer = li.say("分析这个文件", expected="完整结果")
    expect(answer).to_contain_text("60")
    li.shot("csv-summary")
    asked = len(real_chat.stub.requests)
    follow = li.say("只看差评", expected="客服态度差")
    expect(follow).not_to_contain_text("质量很好")
    li.shot("csv-follow-up")
    assert len(real_chat.stub.requests) == asked  # not analysed again
    # The link opens without a key, as it must in a browser.
    link = answer.get_by_role("link", name="CSV").get_attribute("href")
    assert link is not None
    rows = httpx2.get(link, trust_env=False).text.splitlines()
    assert len(rows) == 61


def test_an_xlsx_file_is_read_too(li: Visitor, tmp_path: Path) -> None:
    path = tmp_path / "表格.xlsx"
    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet()
        for number, row in enumerate([["id", "comment"], *([n, f"{c}。"] for n, c in enumerate(COMMENTS))]):
            sheet.write_row(number, 0, row)
    li.new_chat()
    li.attach(path)
    li.say("How do people like it?", expected=re.compile(r"\b6\b.*comments"))
    li.shot("xlsx-summary")


@pytest.mark.clock
def test_a_thousand_rows_are_shown_soon_after_they_are_analysed(
    li: Visitor, real_chat: RealChat, tmp_path: Path
) -> None:
    li.new_chat()
    li.attach(csv_file(tmp_path / "thousand.csv", 1000))
    li.say("分析", expected="完整结果")
    shown = time.time()
    with real_chat.process.service() as http:
        job = http.get("/v1/jobs").json()["items"][0]
    assert job["filename"].endswith("thousand.csv")
    late = shown - datetime.fromisoformat(job["finished_at"]).astimezone(UTC).timestamp()
    print(f"1,000 rows: shown {late:.1f} s after the analysis was done")
    assert late < MOST_AFTER_ANALYSIS_S
    # The page still answers.
    began = time.monotonic()
    li.page.locator("#chat-input").click()
    li.page.keyboard.insert_text("谢谢")
    expect(li.page.locator("#chat-input")).to_contain_text("谢谢")
    assert time.monotonic() - began < 2
    li.shot("thousand-rows")


def test_a_chat_is_exported(li: Visitor, tmp_path: Path) -> None:
    li.page.get_by_label("Chat actions").first.click()
    li.page.get_by_text("Download", exact=True).first.hover()
    li.page.get_by_text("Download", exact=True).first.click()
    li.shot("export")
    with li.page.expect_download() as coming:
        li.page.get_by_text("Export chat (.json)").click()
    path = tmp_path / "chat.json"
    coming.value.save_as(path)
    exported = json.loads(path.read_text("utf-8"))
    assert "完整结果" in json.dumps(exported, ensure_ascii=False)


def test_another_person_sees_the_models_and_no_chat_of_the_first(
    browser: Browser, real_chat: RealChat, li: Visitor
) -> None:
    wang = Visitor(browser, real_chat, "wang.wei@example.com")
    wang.page.get_by_label("Selected model: reviewmill-sentiment").click()
    for model in ("reviewmill-sentiment", "reviewmill-emotion", "stub-model"):
        expect(wang.page.get_by_role("option", name=model).or_(wang.page.get_by_text(model)).first).to_be_visible()
    wang.shot("another-person-models")
    mine = li.page.evaluate(
        "fetch('/api/v1/chats/', {headers: {Authorization: `Bearer ${localStorage.token}`}}).then(r => r.json())"
    )
    theirs = wang.page.evaluate(
        "fetch('/api/v1/chats/', {headers: {Authorization: `Bearer ${localStorage.token}`}}).then(r => r.json())"
    )
    assert len(mine) >= 5
    assert theirs == []
    wang.page.goto(f"{real_chat.process.url}/c/{mine[0]['id']}")
    time.sleep(3)
    expect(wang.page.locator(".chat-assistant")).to_have_count(0)
    assert "完整结果" not in wang.page.content()


def test_without_the_service_the_chat_says_so_and_keeps_what_was_said(li: Visitor, real_chat: RealChat) -> None:
    import os
    import signal

    li.new_chat()
    li.say("断线之前的评论，质量很好。", expected="%")
    said = real_chat.process.times("The service is back.")
    os.kill(real_chat.process.pid("service"), signal.SIGSTOP)
    os.kill(real_chat.process.pid("service"), signal.SIGKILL)
    li.page.locator("#chat-input").click()
    li.page.keyboard.insert_text("服务不在了，怎么办？")
    li.page.keyboard.press("Enter")
    time.sleep(2)
    li.shot("service-away")
    real_chat.process.until("The service is back.", 90, more_than=said)
    li.page.reload()
    expect(li.page.locator(".chat-assistant").first).to_contain_text("%")
    li.say("服务回来了，质量很好。", expected="%")
    li.shot("service-back")


def test_what_was_asked_before_the_network_went_is_answered_when_it_is_back(li: Visitor, real_chat: RealChat) -> None:
    li.new_chat()
    li.say("断网之前的评论，质量很好。", expected="%")
    before = len(real_chat.stub.requests)
    real_chat.stub.latency = 3
    try:
        li.page.locator("#chat-input").click()
        li.page.keyboard.insert_text("断网时的评论，物流很慢。")
        li.page.keyboard.press("Enter")
        until(lambda: len(real_chat.stub.requests) > before)
        li.page.context.set_offline(True)
        time.sleep(5)  # the answer comes while no browser hears it
        li.shot("network-away")
    finally:
        real_chat.stub.latency = 0
        li.page.context.set_offline(False)
    li.page.reload()
    answers = li.page.locator(".chat-assistant")
    expect(answers).to_have_count(2, timeout=PATIENCE_MS)
    expect(answers.first).to_contain_text("正面")
    expect(answers.nth(1)).to_contain_text("负面", timeout=PATIENCE_MS)
    assert len(real_chat.stub.requests) == before + 1
    li.say("网络回来了，质量很好。", expected="%")
    li.shot("network-back")


def test_no_browser_asked_anybody_else(li: Visitor, real_chat: RealChat) -> None:
    assert li.hosts <= {f"127.0.0.1:{real_chat.process.port}"}
    assert real_chat.watch.seen == []

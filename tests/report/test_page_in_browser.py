"""The page of small runs in a real headless Chromium, opened from the disk: every view, light and dark, narrow too.

Any message of the console, any error and anything that the page's policy blocks fails a test.
"""

import csv
import io
import json
import re
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from report.answered import fill_responses, fill_scores, seal_bare
from report.test_analyses import fill_matrix
from report.test_record_tables import add_answers
from report.test_report import STATES, Item, Named, make_run, seal

from mralign.report import publish
from mralign.report.blocks import View
from mralign.report.document import RunDocument, document_of, findings_of
from mralign.report.findings import survey
from mralign.report.page import make_page
from mralign.report.record_shelves import shelve
from mralign.report.trajectory_records import ShownSide, ShownStep, TrajectoryRecord
from mralign.rows.schema import REJECTS
from mralign.run.part_names import part_name

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (requirements-test.txt)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)

VIEWS = ("outcome", "trajectories", "thinking", "story", "run")
# What a hostile model, or a hostile data set, may say.
EVIL = (
    "</script><script>window.hacked=1</script><!--<img src=x onerror=window.hacked=1>\u202eevil\u2066\x00\x1b[31m\x7f"
)
LINE = "x" * 2**20


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield running
        running.close()


def visit(tab, view):
    """Open a view. The address changes first, and the page follows it a moment later."""
    tab.click(f"#nav a[data-view={view}]")
    playwright.expect(tab.locator(f"#nav a[data-view={view}]")).to_have_attribute("aria-current", "page")


@contextmanager
def opened(browser, address, *, width=1400, scheme="light", anchor=""):
    """A tab with the page; fails if anything was said on the console."""
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True)
    faults = []
    tab.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else faults.append(request.url),
    )
    tab.goto(f"file://{address}{anchor}")
    tab.wait_for_selector("html[data-ready=yes]")
    try:
        yield tab
        assert faults == []
    finally:
        tab.close()


def hostile_run(home):
    """A small run, in which models, data sets, annotators and rejects say what they should not."""
    config, planned = make_run(home)
    items = add_answers(home, planned)
    said = {"../../x/1": f"<think>{EVIL}\n\nIt is Paris.</think>{EVIL}", "../../x/2": f"<think>{LINE}</think>Paris"}
    for name, method in (("_base", "base_think_on"), ("", "mralign")):
        out, rows = fill_responses(home, f"responses{name}", said, method=method, question=f"Where? {EVIL}")
        fill_scores(next(item.out for item in planned if item.stage.name == f"evaluation{name}"), rows)
        items = [item for item in items if item.stage.name != f"responses{name}"] + [
            Item(Named(f"responses{name}"), out)
        ]
    stages = {item.stage.name: item.out for item in planned}
    reject = {
        "row_id": EVIL.replace("\x00", ""),
        "reason": "<b>odd</b>",
        "detail": EVIL,
        "raw": EVIL,
        "dataset": "../../x",
    }
    stages["candidates"].commit_rejects(part_name("0"), pa.Table.from_pylist([reject], schema=REJECTS))
    spent = {"requests": 1, "repaired": 0, "rejected": 0, "prompt_tokens": 1, "completion_tokens": 1, "money": 0.5}
    annotators = {f"\ud800{EVIL}": spent, "=cmd|' /C calc'!A0": spent}
    seal_bare(stages["annotation"], figures={"annotators": annotators, "adjudicated": 0.1})
    P = np.full((len(STATES), len(STATES)), 1 / len(STATES))
    moved = P.copy()
    moved[2, 1], moved[2, 3], moved[1, 1], moved[1, 2] = 0.325, 0.075, 0.3, 0.1
    items += [fill_matrix(home, "thoughts_matrices_base", P), fill_matrix(home, "thoughts_matrices", moved)]
    return config, items


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The path of the page of a small run with everything in it."""
    home = tmp_path_factory.mktemp("page") / "run"
    config, items = hostile_run(home)
    for item in items:
        if item.stage.name in ("evaluation_base", "evaluation"):
            place = {"mean": 0.3, "histogram": [48] + [0] * 19}
            hit = {"thoughts": 50, "without_hit": 2, "first": place, "last": place}
            method = "base_think_on" if item.stage.name == "evaluation_base" else "mralign"
            item.out.write_text("positions.json", json.dumps({"nq_open": {method: {"right": hit, "wrong": hit}}}))
    out = next(item for item in items if item.stage.name == "annotation").out
    out.write_text(
        "taxonomy.json", json.dumps({"states": STATES, "macro": dict.fromkeys(STATES[1:4], f"Macro {EVIL}")})
    )
    funnel = [
        {"dataset": "../../x", "filter": "verdict", "polarity": 1, "unit": "questions", "rows_in": 9, "rows_out": 6}
    ]
    seal(next(item for item in items if item.stage.name == "candidates"), figures={"funnel": funnel})
    publish(config, items)
    return home / "report" / "index.html"


def overflow(tab):
    """By how many pixels the page is wider than its window."""
    return tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_every_view_opens_without_a_word_on_the_console(browser, page, tmp_path, width, scheme):
    with opened(browser, page, width=width, scheme=scheme) as tab:
        for view in VIEWS:
            visit(tab, view)
            playwright.expect(tab.locator(f"#view-{view}")).to_be_visible()
            assert tab.locator("#nav a[aria-current=page]").get_attribute("data-view") == view
            assert overflow(tab) <= 0
            picture = tab.screenshot(path=tmp_path / f"{view}.png", full_page=view != "trajectories")
            assert len(picture) > 5000
            for row in range(tab.locator("details.card > summary").count()):
                tab.locator("details.card > summary").nth(row).click()
            assert overflow(tab) <= 0
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) > 380) == (scheme == "light")


def test_no_column_is_cut_without_a_sign(browser, page):
    with opened(browser, page, width=400, anchor="#outcome") as tab:
        tab.wait_for_timeout(100)
        for frame in tab.locator(".scroll-frame").all():
            hidden = frame.locator(".scroller").evaluate("box => box.scrollWidth - box.clientWidth")
            assert frame.locator(".more-right").is_visible() == (hidden > 2)
            assert frame.locator(".scroller").get_attribute("tabindex") == ("0" if hidden > 2 else "-1")
        assert tab.locator(".scroll-frame.cut-right").count() > 0


def test_hostile_text_stays_text(browser, page):
    with opened(browser, page, anchor="#trajectories") as tab:
        shown = []
        for row in range(tab.locator(".row").count()):
            tab.locator(".row").nth(row).click()
            playwright.expect(tab.locator(".row").nth(row)).to_have_attribute("aria-selected", "true")
            tab.wait_for_selector(".trajectory")
            shown.append(tab.locator(".detail").inner_text())
        words = "\n".join(shown)
        assert "<script>window.hacked=1</script><!--<img src=x onerror=window.hacked=1>⟨U+202E⟩evil⟨U+2066⟩" in words
        assert "⟨U+001B⟩[31m⟨U+007F⟩" in words and "../../x" in words and "<b>odd</b>" in words
        assert not set("\u202e\u2066\x1b\x00") & set(words)
        assert "more characters stand in the table" in words  # of the line of a megabyte
        visit(tab, "story")
        assert "⟨U+D800⟩</script>" in tab.locator("#main").inner_text()
        assert tab.evaluate("window.hacked") is None
        assert tab.locator("#main img, #main script, #main iframe").count() == 0


def test_search_and_filters_narrow_the_list(browser, page):
    with opened(browser, page, anchor="#trajectories") as tab:
        count = tab.locator(".count")
        playwright.expect(count).to_have_text("7 of 7 trajectories")
        tab.select_option("#filter-outcome", label="positive")
        playwright.expect(count).to_have_text("3 of 7 trajectories")
        tab.select_option("#filter-label", label="retrieval")
        playwright.expect(count).to_have_text("1 of 7 trajectories")
        assert "p1/on/0" in tab.locator(".row").inner_text()
        tab.click("button[aria-label='Reset search and filters']")
        tab.select_option("#filter-from", label="retrieval")
        tab.select_option("#filter-to", label="backtracking")
        playwright.expect(count).to_have_text("1 of 7 trajectories")
        tab.select_option("#filter-to", label="retrieval")
        playwright.expect(count).to_have_text("0 of 7 trajectories")
        tab.click("button[aria-label='Reset search and filters']")
        tab.select_option("#filter-reason", label="<b>odd</b>")
        playwright.expect(count).to_have_text("1 of 7 trajectories")
        tab.click("button[aria-label='Reset search and filters']")
        tab.fill("#search", "IS n1?")
        playwright.expect(count).to_have_text("1 of 7 trajectories")
        tab.fill("#search", "then.")
        playwright.expect(count).to_have_text("0 of 7 trajectories")
        tab.check("#deep")
        playwright.expect(count).to_have_text("4 of 7 trajectories")


def test_a_trajectory_shows_labels_opinions_rule_weight_and_gold(browser, page):
    with opened(browser, page, anchor="#row=p1%2Fon%2F0") as tab:
        step = tab.locator(".step").first
        playwright.expect(step).to_contain_text("framing")
        assert step.inner_text().split("\n")[:1] == ["framing"]
        words = " ".join(step.inner_text().split())
        assert "× 2.50" in words and "rule: equal" in words and "first: framing" in words and "second: framing" in words
        step.locator(".segment").hover()
        playwright.expect(tab.locator("#tip")).to_have_text("weight 2.500")
        depths = [one.evaluate("e => e.style.getPropertyValue('--depth')") for one in tab.locator(".step").all()[:2]]
        assert float(depths[0][:-1]) > float(depths[1][:-1])  # the heavier step is coloured deeper
        assert tab.evaluate("location.hash") == "#row=p1%2Fon%2F0"
        assert tab.locator(".row[aria-selected=true]").inner_text().startswith("Who is p1?")
        tab.evaluate("location.hash = '#row=nowhere'")
        playwright.expect(tab.locator(".detail")).to_contain_text("There is no trajectory with the id nowhere")
        tab.evaluate("location.hash = '#row=../../x/1/on/0'")
        playwright.expect(tab.locator(".sides.two")).to_be_visible()
        assert tab.locator("mark", has_text="Paris").count() >= 3  # gold above, and in either thought
        assert [one.inner_text() for one in tab.locator(".side h4").all()] == [
            "base_think_on before training",
            "mralign aligned",
        ]


def test_the_list_and_the_drawings_go_by_keyboard(browser, page):
    with opened(browser, page) as tab:
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.className") == "skip"
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.activeElement.id") == "main"
        visit(tab, "trajectories")
        assert tab.evaluate("document.activeElement.id") == "view-trajectories"
        tab.focus(".list")
        for key, place in (("ArrowDown", 0), ("ArrowDown", 1), ("End", 6), ("ArrowUp", 5), ("Home", 0)):
            tab.keyboard.press(key)
            assert tab.locator(".row[aria-selected=true]").get_attribute("data-place") == str(place)
            assert tab.locator(".list").get_attribute("aria-activedescendant") == f"option-{place}"
        tab.wait_for_selector(".trajectory")
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.activeElement.id") == "trajectory-title"
        visit(tab, "thinking")
        tab.locator(".figure-square svg").first.focus()
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowDown")
        playwright.expect(tab.locator("#said")).to_contain_text("framing → <start>")
        visit(tab, "story")
        tab.locator(".figure-curves svg").first.focus()
        tab.keyboard.press("End")
        playwright.expect(tab.locator("#said")).to_have_text("Optimizer step 3: loss 0.3")


def test_everything_that_can_be_used_has_a_name_and_every_label_its_field(browser, page):
    used = "button, a, select, input, svg[role=img], [role=region]"
    nameless = f"""() => [...document.querySelectorAll('{used}')].filter((one) =>
        !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length)).map((one) => one.id)"""
    twice = """() => {
        const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
        return ids.filter((id, place) => ids.indexOf(id) !== place);
    }"""
    with opened(browser, page) as tab:
        for view in VIEWS:
            visit(tab, view)
            assert tab.evaluate(nameless) == [] and tab.evaluate(twice) == []


def saved(tab, locator):
    with tab.expect_download() as waiting:
        locator.click()
    return waiting.value


def text_of(download):
    return Path(download.path()).read_bytes().decode()


def test_tables_and_drawings_can_be_saved(browser, page):
    with opened(browser, page, anchor="#story") as tab:
        found = saved(tab, tab.locator("button[aria-label='Download Annotators, and what they cost as CSV']"))
        assert found.suggested_filename == "Annotators-and-what-they-cost.csv"
        rows = list(csv.reader(io.StringIO(text_of(found))))
        assert rows[0][:2] == ["Annotator", "Requests"]
        assert rows[2][0] == "'=cmd|' /C calc'!A0"  # no formula
        picture = saved(tab, tab.locator("button[aria-label='Download Loss as PNG']"))
        assert Path(picture.path()).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        drawing = text_of(saved(tab, tab.locator("button[aria-label='Download Rewards as SVG']")))
        assert drawing.startswith("<svg") and 'xmlns="http://www.w3.org/2000/svg"' in drawing
        assert "var(" not in drawing and "class=" not in drawing and "color-mix" not in drawing
        tab.click("button[aria-label='Show Loss as a table']")
        assert "0.1" in tab.locator(".figure-curves table").first.inner_text()


def test_on_paper_stand_all_views_and_no_tools(browser, page):
    with opened(browser, page, anchor="#row=p1%2Fon%2F0") as tab:
        tab.wait_for_selector(".trajectory")
        paper = tab.pdf(format="A4")
        assert len(re.findall(rb"/Type\s*/Page\b", paper)) > 4
        tab.emulate_media(media="print")
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert tab.locator(".view").count() == len(VIEWS)
        assert tab.locator("#nav").is_hidden() and tab.locator(".tools").first.is_hidden()
        assert tab.locator(".trajectory").is_visible()
        tab.evaluate("dispatchEvent(new Event('afterprint'))")
        assert tab.locator(".view").count() == 1


def test_several_runs_are_compared_and_each_can_be_looked_at(browser, tmp_path):
    runs = []
    for name in ("one", "two"):
        config, items = make_run(tmp_path / name)
        runs.append(findings_of(config, survey(items)))
    from mralign.report.side_by_side import compared

    (tmp_path / "page.html").write_text(make_page([document_of(run) for run in runs], compared=compared(runs)).html)
    with opened(browser, tmp_path / "page.html") as tab:
        assert tab.locator("h2").inner_text() == "Runs compared"
        assert "two: mralign" in tab.locator("#main").inner_text()
        assert tab.locator(".figure-curves").count() == 5
        tab.evaluate("location.hash = '#run=1,row=p1/on/0'")
        playwright.expect(tab.locator(".trajectory")).to_contain_text("Who is p1?")
        assert tab.locator(".row-id").get_attribute("href") == "#run=1,row=p1%2Fon%2F0"
        assert tab.locator("#run-chooser").input_value() == "1"
        visit(tab, "run")
        assert str(tmp_path / "two") in tab.locator("#main").inner_text()


def synthetic(number):
    """A trajectory with about 2,000 characters of thought."""
    label = ("framing", "retrieval", "backtracking")[number % 3]
    steps = [ShownStep([[f"step {place} of {number} " + "thinks and goes on " * 12]], [label]) for place in range(8)]
    side = ShownSide("thinking", "rollout", steps, [f"answer {number}"])
    return TrajectoryRecord(
        f"set/{number}/on/0", "training", "set", "positive", question=f"question {number} ?", sides=[side]
    )


def test_ten_thousand_trajectories_lie_beside_the_page_and_only_those_in_sight_are_drawn(browser, tmp_path, capsys):
    document = RunDocument(
        "many",
        "",
        [View("trajectories", "Trajectories", [])],
        {},
        (0.4, 2.7),
        shelve(map(synthetic, range(10_000))),
        "",
    )
    made = make_page([document])
    assert made.files and all(len(text) <= 2_000_000 for text in made.files.values())
    for name, text in {"index.html": made.html, **made.files}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    begun = time.monotonic()
    with opened(browser, tmp_path / "index.html", anchor="#trajectories") as tab:
        tab.wait_for_selector(".row")
        first = time.monotonic() - begun
        with capsys.disabled():
            print(
                f"\n10 000 trajectories: page {len(made.html):,} bytes, {len(made.files)} files beside it of "
                f"{sum(map(len, made.files.values())):,} bytes, first list after {first:.2f} s"
            )
        assert tab.locator(".row").count() < 60
        tab.locator(".list").evaluate("list => { list.scrollTop = list.scrollHeight }")
        playwright.expect(tab.locator(".row").last).to_contain_text("question 9999 ?")
        tab.locator(".row").last.click()
        playwright.expect(tab.locator(".trajectory")).to_contain_text("step 7 of 9999")
        tab.fill("#search", "question 77")  # 280 of the numbers below 10,000 hold 77
        playwright.expect(tab.locator(".count")).to_have_text("280 of 10\u2009000 trajectories")


def test_a_missing_file_beside_the_page_is_said(browser, tmp_path):
    document = RunDocument(
        "few", "", [View("trajectories", "Trajectories", [])], {}, (0.4, 2.7), shelve(map(synthetic, range(3))), ""
    )
    (tmp_path / "index.html").write_text(make_page([document], alone_bytes=0).html)
    tab = browser.new_page()
    tab.goto(f"file://{tmp_path}/index.html#trajectories")
    tab.locator(".row").first.click()
    playwright.expect(tab.locator(".detail")).to_contain_text("cannot be read; keep the directory data beside the page")
    tab.close()

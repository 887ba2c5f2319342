"""Every relative link, anchor, picture and path that the documents name leads somewhere."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from test_readme import FENCE

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "cluster/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(<?([^()\s>]+(?:\([^()\s]*\))?)>?(?:\s+\"[^\"]*\")?\)")
SOURCE = re.compile(r'(?:src|href|srcset)="([^"]+)"')
PATH = re.compile(r"(?<![\w/.-])(?:tests|docs|mralign|jobs|cluster)/[\w/-]+\.(?:py|md|yaml|svg|png|j2)\b")
# Paths of files that the reader is to write, or that a version before this one had.
NOT_OURS = {"docs/real-inputs.md", "docs/comparison.md", "CHANGELOG.md"}


def prose(text):
    """A document without its blocks and spans of code."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


def links_of(text):
    plain = prose(text)
    return LINK.findall(plain) + SOURCE.findall(plain)


def anchors_of(text):
    """The anchors that GitHub gives to headings."""
    found = []
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", lambda match: match[1] or "", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        earlier = found.count(slug)
        found.append(f"{slug}-{earlier}" if earlier else slug)
    return found


def fault(document, link):
    """Why a link of a document leads nowhere; empty where it leads somewhere, or out of the checkout."""
    if re.match(r"[a-z][a-z+.-]*:", link):
        return "" if re.match(r"https?://[\w.-]+\.\w+", link) else f"{link}: no address"
    place, _, anchor = unquote(link).partition("#")
    target = (document.parent / place).resolve() if place else document
    if not target.exists() or not target.is_relative_to(ROOT):
        return f"{link}: there is no {place}"
    if anchor and anchor not in anchors_of(target.read_text(encoding="utf-8")):
        return f"{link}: no heading of {target.name} has this anchor"
    return ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=[path.relative_to(ROOT).as_posix() for path in DOCUMENTS])
def test_every_link_leads_somewhere(document):
    text = document.read_text(encoding="utf-8")
    assert [told for link in links_of(text) if (told := fault(document, link))] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=[path.relative_to(ROOT).as_posix() for path in DOCUMENTS])
def test_every_path_that_is_named_is_there(document):
    if document.relative_to(ROOT).as_posix() in NOT_OURS:
        return
    named = PATH.findall(document.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_page_is_in_the_index():
    index = links_of((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(index)


def test_the_readme_is_short_and_leads_to_the_pages():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert {"docs/README.md", "docs/configuration.md", "cluster/README.md", "docs/results.md"} <= set(links_of(text))


def test_the_tree_of_the_readme_has_a_line_a_room():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tree,) = [block for _, block in FENCE.findall(text) if block.startswith("mralign/\n")]
    rooms = {path.parent.name for path in (ROOT / "mralign").glob("*/__init__.py")}
    assert rooms == set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    assert {"mralign", "jobs", "cluster", "docs", "tests"} == set(re.findall(r"^(\w+)/", tree, re.MULTILINE))


def test_links_and_anchors_are_found():
    text = (
        "# A b, c!\n## A b c\n### `x` [y](z.md)\n```\n# no\n[n](no.md)\n```\n`[i](no.md)` ![p](p.svg) [q [r]](s.md#t)\n"
    )
    assert anchors_of(text) == ["a-b-c", "a-b-c-1", "x-y"]
    assert links_of(text) == ["z.md", "p.svg", "s.md#t"]


@pytest.mark.parametrize("link", ["gone.md", "#gone", "docs/method.md#gone", "../outside.md", "ftp://x", "http://x"])
def test_a_link_to_nowhere_is_noticed(link):
    assert fault(ROOT / "README.md", link)
    assert not fault(ROOT / "README.md", "docs/method.md#1-candidates-from-questions-to-trajectories")

"""What a page of the report says, read back from its data blocks."""

import json
import re


def page_data(html, name="page-data"):
    """One JSON block of a page."""
    (text,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', html, flags=re.DOTALL)
    return json.loads(text)


def words(value):
    """All texts and numbers of a document in order, joined by blanks; names of fields and kinds are left out."""
    return " ".join(" ".join(_leaves(value)).split())


def _leaves(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "kind":
                yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None:
        yield str(value)


def plain(html):
    """The words of a page without its trajectories."""
    return words(page_data(html)["runs"][0]["views"])


def passages(html):
    """{anchor: section} of the first run of a page."""
    found = {}
    for view in page_data(html)["runs"][0]["views"]:
        for passage in view.get("sections", []):
            found[passage["anchor"]] = passage
    return found


def blocks(html, anchor, kind=None):
    """The blocks of one section, of one kind."""
    return [block for block in passages(html)[anchor].get("blocks", []) if kind in (None, block["kind"])]


def records(html):
    """The trajectories in the page, in order."""
    index = page_data(html)["runs"][0]["index"]
    return [record for number in range(index["chunks"]) for record in page_data(html, f"chunk-0-{number}")]


def shown_text(record):
    """All that a trajectory's sides say."""
    said = []
    for side in record["sides"]:
        for step in side.get("steps", []):
            said += ["".join(segment) for segment in step["segments"]]
        said.append("".join(side["answer"]))
    return "\n".join(said)

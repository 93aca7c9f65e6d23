"""The generated pages say what the program says; and every link within the documentation leads somewhere."""

import os
import re
from pathlib import Path

import docs
import pytest

PROGRAM = Path(os.environ.get("TXB_BUILD", docs.ROOT / "build-dev")) / "txbroker"


@pytest.mark.parametrize("page", docs.PAGES)
def test_a_generated_page_is_up_to_date(page):
    assert (docs.ROOT / page).read_bytes() == docs.printed(PROGRAM, docs.PAGES[page]), f"{page} is old: run `make docs`"


def broken_links(root):
    """Relative links of Markdown files that lead to no file."""
    for path in sorted([*root.glob("*.md"), *root.glob("docs/**/*.md")]):
        text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            name = target.partition("#")[0]
            if name and not re.match(r"[a-z]+:", name) and not (path.parent / name).exists():
                yield f"{path.relative_to(root)}: {target}"


def test_links_lead_somewhere():
    assert list(broken_links(docs.ROOT)) == []


def test_a_planted_broken_link_is_seen(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("[b](b.md) [c](a.md#x) [d](https://example.org) `[e](f)`\n")
    assert list(broken_links(tmp_path)) == ["docs/a.md: b.md"]

"""Documents are whole: they end where a sentence, a table or a block of code ends, and their links
lead somewhere.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ENDS = (".", "|", "`", ")", ":**")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_ends_as_a_document(path):
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n"), "the last line is whole"
    last = text.rstrip().splitlines()[-1]
    assert last.endswith(ENDS), f"ends within a sentence: {last[-60:]!r}"
    assert text.count("\n```") % 2 == 0, "a block of code stays open"
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert not last.startswith("#") and headings, "ends with a heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_that_are_there(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    missing = [
        link
        for link in links
        if not re.match(r"[a-z]+:", link) and not (path.parent / link).exists()
    ]
    assert not missing


def test_the_log_lists_its_entries():
    text = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    listed = re.findall(r"^- \[(.*)\]\(#", text, re.MULTILINE)
    assert headings[0] == "Contents" and listed == headings[1:]

"""Documents that cannot fall behind: the reference, the map of the paper, links and commands."""

import ast
import re
from pathlib import Path

import pytest
from reference import FOLDER, PAGES

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_is_that_of_the_code(name):
    made = PAGES[name]()
    assert (FOLDER / name).read_text() == made, "run: python -m tests.reference"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_map_names_all_of_the_paper_and_only_what_is_there():
    text = (ROOT / "docs" / "paper-map.md").read_text()
    wanted = {f"Eq. {n}" for n in range(1, 18)} | {f"Table {n}" for n in range(1, 12)}
    wanted |= {f"Figure {n}" for n in range(1, 9)} | {"§4.1", "Appendix A", "Appendix B"}
    assert not {one for one in wanted if not re.search(rf"\| {re.escape(one)}\b", text)}
    for module, names in re.findall(r"`([\w/]+\.py)`((?:[^|`]*`\w+`)*)", text):
        file = ROOT / "flowportrait" / module
        assert file.is_file(), module
        body = ast.parse(file.read_text()).body
        declared = {
            getattr(one, "name", "") or getattr(getattr(one, "target", None), "id", "")
            for one in body
        }
        assigned = [target for one in body if isinstance(one, ast.Assign) for target in one.targets]
        declared |= {getattr(target, "id", "") for target in assigned}
        assert set(re.findall(r"`(\w+)`", names)) <= declared, module


def test_every_extra_weight_and_page_is_linked_from_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in DOCUMENTS[1:]}
    assert all(f"({page})" in index for page in pages - {"README.md"})

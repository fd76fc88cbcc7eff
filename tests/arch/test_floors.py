"""The house holds: floors, sizes, and a desk half that never reaches torch."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
SOURCES = sorted((ROOT / "flowportrait").rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_USUAL_LINES = 20  # of nine functions in ten
MAX_NODES_PER_LINE = 8.1  # of the syntax tree, for each line that is not blank
KERNELS = ("draw_strands", "shade")  # loops over pixels that are compiled as one

TORCH_FREE = [
    "flowportrait",
    "flowportrait.errors",
    "flowportrait.registry",
    "flowportrait.records",
    "flowportrait.config",
    "flowportrait.media",
    "flowportrait.cli",
    "flowportrait.faces.framing",
    "flowportrait.scoring.reward",
    "flowportrait.scoring.command",
    "flowportrait.scoring.judges.sim",
    "flowportrait.world.sets",
    "flowportrait.world.degrade",
    "flowportrait.pages",
    "flowportrait.study.command",
    "flowportrait.report.command",
    "flowportrait.report.figures",
]


def test_floors():
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize("module", TORCH_FREE)
def test_importing_it_loads_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from flowportrait.cli import run; code = run(['--help']); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'numpy', 'av', 'PIL')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, FUNCTIONS) and node.name not in KERNELS:
            assert _lines(node) <= MAX_FUNCTION_LINES, f"{node.name} is too long"


def _lines(node):
    return node.end_lineno - node.lineno + 1


def test_nine_functions_in_ten_fit_on_twenty_lines():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    functions = [x for tree in trees for x in ast.walk(tree) if isinstance(x, FUNCTIONS)]
    lengths = sorted(map(_lines, functions))
    assert lengths[len(lengths) * 9 // 10] <= MAX_USUAL_LINES


def test_lines_carry_little_syntax():
    texts = [path.read_text(encoding="utf-8") for path in SOURCES]
    nodes = sum(1 for text in texts for _ in ast.walk(ast.parse(text)))
    lines = sum(1 for text in texts for line in text.splitlines() if line.strip())
    assert nodes / lines <= MAX_NODES_PER_LINE


def test_a_class_name_means_one_thing():
    """The settings of a part are its own `Config`; no other name is there twice."""
    names = Counter(
        node.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == ["Config"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_says_what_it_gives(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_begin_with_a_verb_or_a_noun(path):
    documented = ast.Module | ast.ClassDef | FUNCTIONS
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node) if isinstance(node, documented) else None
        first = (text or "-").split()[0]
        assert first not in ("What", "Whose"), f"{getattr(node, 'name', path.stem)}: {text}"

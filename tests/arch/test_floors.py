"""The house holds: floors, sizes, and a desk half that never reaches torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "flowportrait").rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 620, 70

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
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{node.name} is too long"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_says_what_it_gives(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"

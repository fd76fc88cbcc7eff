"""Accessibility by axe-core, which comes from npm and is never kept here (MPL-2.0)."""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

VERSION = "4.14.1"
_CACHE = Path(tempfile.gettempdir()) / f"flowportrait-axe-{VERSION}"


def findings(page) -> list[str]:
    """What axe finds serious or critical on a page; skips the test where axe cannot be had."""
    page.run(_source() + "\nwindow.axe = axe;")
    found = page.run("return axe.run().then(({violations}) => violations)")
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:120]}: {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def _source() -> str:
    script = _CACHE / "axe.min.js"
    if not script.is_file():
        _fetch()
    return script.read_text(encoding="utf-8")


def _fetch() -> None:
    npm = shutil.which("npm") or pytest.skip("npm is not installed, which brings axe-core")
    _CACHE.mkdir(exist_ok=True)
    packing = [npm, "pack", f"axe-core@{VERSION}", "--silent"]
    try:
        done = subprocess.run(packing, cwd=_CACHE, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm does not bring axe-core {VERSION} within two minutes")
    if done.returncode:
        pytest.skip(f"npm does not bring axe-core {VERSION}: {done.stderr[-200:]}")
    with tarfile.open(_CACHE / f"axe-core-{VERSION}.tgz") as packed:
        packed.extract("package/axe.min.js", _CACHE, filter="data")
    (_CACHE / "package" / "axe.min.js").rename(_CACHE / "axe.min.js")

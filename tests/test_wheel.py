"""The wheel holds all that `flowportrait generate` needs, away from the checkout."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, cwd):
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


def test_an_installed_wheel_makes_a_video(tmp_path):
    """Dependencies are those of this environment: torch alone would be gigabytes."""
    pytest.importorskip("torch", reason="torch is not installed")
    source, built, venv = tmp_path / "source", tmp_path / "built", tmp_path / "venv"
    for name in ("flowportrait", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        place = source / name
        place.parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, place)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "-w", built, source, cwd=tmp_path)
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    packages = next((venv / "lib").iterdir()) / "site-packages"
    (wheel,) = built.glob("*.whl")
    run(*pip, "install", "--quiet", "--no-deps", "--target", packages, wheel, cwd=tmp_path)
    # Behind the wheel, so that it is found before an editable install.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    samples = packages / "flowportrait" / "samples"
    command = (
        venv / "bin" / "python",
        "-P",
        "-m",
        "flowportrait",
        "generate",
        samples / "portrait.png",
    )
    run(*command, samples / "speech.wav", "-o", "out.mp4", "--evaluations", "1", cwd=tmp_path)
    assert (tmp_path / "out.mp4").stat().st_size > 10_000
    where = run(
        venv / "bin" / "python",
        "-P",
        "-c",
        "import flowportrait; print(flowportrait.__file__)",
        cwd=tmp_path,
    )
    assert str(packages) in where.stdout

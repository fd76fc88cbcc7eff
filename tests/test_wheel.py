"""The wheel is whole: away from the checkout it makes videos and has recipes, prompts, samples."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="torch is not installed")
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCE = ("flowportrait", "recipes", "pyproject.toml", "README.md", "LICENSE", "NOTICE")


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command, cwd):
    words = [str(part) for part in command]
    done = subprocess.run(
        words, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with the wheel alone, and a folder to work in. What it depends on is that of
    this environment: torch alone would be gigabytes.
    """
    home = tmp_path_factory.mktemp("wheel")
    source, built, venv = home / "source", home / "built", home / "venv"
    source.mkdir()
    for name in SOURCE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "-w", built, source, cwd=home)
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=home)
    packages = next((venv / "lib").iterdir()) / "site-packages"
    (wheel,) = built.glob("*.whl")
    python = venv / "bin" / "python"
    run(*pip, "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=home)
    # Behind the wheel, so that it is found before an editable install.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    work = home / "work"
    work.mkdir()

    def command(*words):
        return run(python, "-P", "-m", "flowportrait", *words, cwd=work)

    return SimpleNamespace(command=command, python=python, packages=packages, work=work)


def test_an_installed_wheel_is_small(installed):
    package = installed.packages / "flowportrait"
    sizes = [path.stat().st_size for path in package.rglob("*") if "__pycache__" not in path.parts]
    assert sum(sizes) < 45e6
    models = {path.name for path in (package / "models").iterdir()}
    assert "tiny" in models and "tiny-sft" not in models  # before reinforcement learning


def test_an_installed_wheel_makes_a_video(installed):
    installed.command("samples", "-o", "samples")
    portrait, speech = "samples/portrait.png", "samples/speech.wav"
    installed.command("generate", portrait, speech, "-o", "out.mp4", "--evaluations", "1")
    assert (installed.work / "out.mp4").stat().st_size > 10_000
    where = "import flowportrait; print(flowportrait.__file__)"
    assert str(installed.packages) in run(installed.python, "-P", "-c", where, cwd=installed.work)


def test_the_tutorial_is_walked_word_for_word(installed):
    """Every command of docs/tutorial.md, as it is typed, without a checkout."""
    pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")
    tutorial = (ROOT / "docs" / "tutorial.md").read_text()
    typed = "\n".join(re.findall(r"```sh\n(.*?)```", tutorial, re.S))
    assert sum(line.startswith("flowportrait ") for line in typed.splitlines()) >= 6
    place = installed.work / "tutorial"
    place.mkdir()
    path = f"{installed.python.parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", typed],
        cwd=place,
        env=ENVIRONMENT | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    page = (place / "report.html").read_text()
    assert "My portrait" in page and "natural" in page and "calm" in page
    assert (place / "natural/me.mp4").stat().st_size > 50_000
    said = [line for line in done.stdout.splitlines() if line.startswith("| offline-")]
    assert len(said) == 6 and "no score" not in done.stdout


def test_recipes_are_in_it(installed):
    listed = json.loads(installed.command("list", "recipes", "--json").splitlines()[-1])
    assert listed == sorted(path.name for path in (ROOT / "recipes").glob("*.toml"))
    assert "num_rows = 64" in installed.command("config", "show", "recipes/sft-paper.toml")
    (installed.work / "chain.toml").write_text(
        'out = "chain"\nresult = "logs"\n[[stages]]\nname = "look"\n'
        'run = ["config", "show", "{recipes}/tiny-rl.toml"]\n'
    )
    installed.command("reproduce", "chain.toml")
    assert "[rollout.window]" in (installed.work / "chain/logs/look.log").read_text()


def test_prompts_and_samples_are_in_it(installed):
    installed.command("judges", "prompts", "--copy", "prompts")
    prompts = ROOT / "flowportrait/scoring/judges/prompts"
    copied = (installed.work / "prompts").iterdir()
    assert {path.name for path in copied} == {path.name for path in prompts.iterdir()}
    installed.command("samples", "-o", "other")
    own = {path.name for path in (ROOT / "flowportrait/samples").rglob("*")}
    assert {path.name for path in (installed.work / "other").rglob("*")} == own


def test_extras_are_told_in_one_table():
    """Every extra has a line; those for everybody are all in `all`."""
    table = (ROOT / "docs/install.md").read_text()
    extras = PROJECT["optional-dependencies"]
    assert all(f"| `{name}` |" in table for name in extras)
    for name in ("data", "judges", "scorers", "train", "web", "report", "judges-local"):
        assert name in extras["all"][0]

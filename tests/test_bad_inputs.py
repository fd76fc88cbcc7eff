"""Wrong input: exit code 2, exactly one line on stderr, no traceback, nothing written."""

import re
from pathlib import Path

import pytest
from bad_inputs import BAD_INPUTS, DOCUMENT, document, make_files
from cases import WARNINGS

import flowportrait.faces.centerface  # noqa: F401  it looks for its weights when it is imported, before models are moved
from flowportrait import cli, registry

PACKAGE = Path(registry.__file__).parent


class FramingOnly:
    """A pipeline that frames the portrait as the real one does, and needs no weights of a model."""

    def generate(self, portrait, audio, *, crop, **options):
        from flowportrait.faces.framing import frame_portrait

        frame_portrait(portrait, 128, crop, registry.FACE_DETECTORS.load("centerface")())
        raise AssertionError("the portrait should have been refused")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    make_files(folder)
    return folder


@pytest.fixture
def one_model(files, tmp_path, monkeypatch):
    """As if exactly one model, tiny, were shipped."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    monkeypatch.setattr(registry, "MODELS_DIR", tmp_path)
    monkeypatch.chdir(files)


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: bad.kind)
def test_one_line_and_exit_code_2(bad, files, one_model, monkeypatch, capsys):
    if bad.kind == "portrait: nobody in it":
        import flowportrait.generate

        monkeypatch.setattr(flowportrait.generate, "load", lambda model, device: FramingOnly())
    if "device" in bad.kind:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    before = sorted(files.rglob("*"))
    assert cli.run(bad.arguments) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {bad.line}\n"
    assert captured.out == ""
    assert sorted(files.rglob("*")) == before


def test_there_are_enough_and_no_two_alike():
    assert len({bad.kind for bad in BAD_INPUTS}) == len(BAD_INPUTS) >= 20


def test_document_is_up_to_date():
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run: python tests/bad_inputs.py"


def test_warnings_that_are_documented_are_given():
    """Each is provoked by a test of its room; here the words are held to be the package's."""
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    words_of_code = re.sub(r'["\']\s*\n\s*f?["\']', "", sources)
    assert all(words in words_of_code for _, words in WARNINGS)


def test_debug_shows_the_traceback(one_model):
    from flowportrait.errors import MediaError

    with pytest.raises(MediaError, match="no such file"):
        cli.run(["generate", "none.png", "speech.wav", "-o", "out.mp4", "--debug"])

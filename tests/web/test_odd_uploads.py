"""Odd recordings and portraits of real people, sent to a real server."""

import io
from pathlib import Path

import pytest
from cases import CASES, FOLDER, shift_s
from PIL import Image

from flowportrait import media

pytest.importorskip("uvicorn", reason="flowportrait[web] is not installed")

from flowportrait.web.jobs import ServerLimits  # noqa: E402

SAMPLES = Path(media.__file__).parent / "samples"
LIMITS = ServerLimits(max_sound_s=8.0)


def made_of(visitor, portrait="portrait.png", audio="speech.wav"):
    """The state of the video that comes of them, once it is made or refused."""
    status, body = visitor.submit(portrait=portrait, audio=audio, evaluations=1)
    assert status == 200, body
    told = visitor.state(body["id"], "done", "failed", within_s=300)
    return told, f"/api/jobs/{body['id']}/video"


def sent(visitor, kind, name, content):
    """The id of an upload."""
    status, _, body = visitor.ask("PUT", f"/api/files/{kind}?name={name}", content)
    assert status == 200, body
    return body["id"]


@pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/cases is not there")
def test_recordings_are_heard_as_the_clean_one_is(visitor, tmp_path):
    for case in CASES:
        audio = sent(visitor, "audio", case.name, (FOLDER / case.name).read_bytes())
        status, headers, heard = visitor.ask("GET", f"/api/files/{audio}")
        assert (status, headers["content-type"]) == (200, "audio/wav"), case.name
        told, path = made_of(visitor, audio=audio)
        assert told["state"] == "done", (case.name, told)
        clean = media.read_audio(FOLDER / case.like)
        assert abs(told["video_s"] - clean.duration_s) < 1 / 24, case.name
        said = [line for line in told["warnings"] if line.startswith(f"{case.name}: ")]
        assert bool(said) == (case.name == "antiphase.wav"), (case.name, told["warnings"])
        (tmp_path / "heard.wav").write_bytes(heard)
        (tmp_path / "made.mp4").write_bytes(visitor.ask("GET", path)[2])
        for again in ("heard.wav", "made.mp4"):
            late_s = shift_s(media.read_audio(tmp_path / again), clean)
            assert abs(late_s) < 0.5 / 24, (case.name, again)


def test_what_a_portrait_lacks_is_said_on_the_page(visitor):
    content = io.BytesIO()
    with Image.open(SAMPLES / "portrait.png") as picture:
        picture.convert("RGB").point(lambda level: level // 6).save(content, "PNG")
    portrait = sent(visitor, "portrait", "dark.png", content.getvalue())
    told, _ = made_of(visitor, portrait=portrait)
    assert told["state"] == "done" and any("underexposed" in line for line in told["warnings"])

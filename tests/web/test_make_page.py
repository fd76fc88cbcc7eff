"""The page that makes videos, over a real server with the bundled model, and in a real browser
where there is one.
"""

import errno
import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import tracemalloc
import wave
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from flowportrait import cli, media

pytest.importorskip("uvicorn", reason="flowportrait[web] is not installed")
from page_server import Visitor, served  # noqa: E402
from webdriver import browser  # noqa: E402

from flowportrait.web.jobs import Desk, ServerLimits  # noqa: E402

SAMPLES = Path(__file__).parents[2] / "flowportrait" / "samples"
LIMITS = ServerLimits(max_upload_bytes=1 << 20, max_sound_s=4.0, max_waiting=2, max_files=3)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A second of the sample speech, as a WAV file's bytes."""
    sound = media.read_audio(SAMPLES / "speech.wav")
    path = tmp_path_factory.mktemp("speech") / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, sound.sample_rate, 0, "NONE", ""))
        file.writeframes((sound.samples[: sound.sample_rate] * 32767).astype("<i2").tobytes())
    return path.read_bytes()


def test_uploads_become_a_video_that_is_ones_own(visitor, port, speech, desk, tmp_path):
    picture = (SAMPLES / "portrait.png").read_bytes()
    portrait = visitor.ask("PUT", "/api/files/portrait?name=me.png", picture)[2]["id"]
    audio = visitor.ask("PUT", "/api/files/audio?name=hello.wav", speech)[2]["id"]
    assert stat.S_IMODE(desk._home.stat().st_mode) == 0o700
    status, body = visitor.submit(portrait=portrait, audio=audio, size="auto")
    told = visitor.state(body["id"], "done", "failed")
    assert (
        status == 200 and told["state"] == "done" and told["video_s"] == pytest.approx(1, abs=0.1)
    ), told
    path = f"/api/jobs/{body['id']}/video"
    status, headers, whole = visitor.ask("GET", path)
    assert (status, headers["content-type"], headers["cache-control"]) == (
        200,
        "video/mp4",
        "no-store",
    )
    (tmp_path / "v.mp4").write_bytes(whole)
    assert len(list(media.read_frames(tmp_path / "v.mp4"))) == 24 and b"synthetic" in whole
    status, headers, part = visitor.ask("GET", path + "?download=1", Range="bytes=4-7")
    assert (status, part) == (206, b"ftyp") and "talking.mp4" in headers["content-disposition"]
    stranger = Visitor(port)
    for method, asked in (
        ("GET", path),
        ("GET", path.removesuffix("/video")),
        ("DELETE", path.removesuffix("/video")),
    ):
        assert stranger.ask(method, asked)[0] == 404
    status, told = stranger.submit(portrait=portrait)
    assert (status, told["field"]) == (422, "portrait")
    assert (
        visitor.ask("DELETE", path.removesuffix("/video"))[0] == 200
        and visitor.ask("GET", path)[0] == 404
    )
    assert (
        visitor.ask("DELETE", "/api/files")[0] == 200
        and visitor.submit(portrait=portrait)[0] == 422
    )
    assert not list(desk._home.rglob("*.*")) and not list(desk._home.rglob("portrait"))


def test_cancelling_stops_at_once_and_a_killed_process_costs_one_job(visitor, desk, speech):
    long = {"evaluations": 500}
    audio = visitor.ask("PUT", "/api/files/audio?name=hello.wav", speech)[2]["id"]
    first, second = (visitor.submit(**long)[1]["id"] for _ in range(2))
    visitor.state(first, "running")
    assert visitor.state(second, "queued")["ahead"] == 1
    assert visitor.ask("DELETE", f"/api/jobs/{first}")[0] == 200
    visitor.state(second, "running", within_s=10)
    end = time.monotonic() + 60
    while not visitor.state(second, "running")["done"] and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(desk._process.pid, signal.SIGKILL)
    told = visitor.state(second, "failed", within_s=10)
    assert told["reason"].startswith("the process that made it stopped")
    third = visitor.submit(audio=audio)[1]["id"]
    assert visitor.state(third, "done", "failed")["state"] == "done"


def test_a_waiting_job_keeps_its_files_when_the_upload_is_deleted(visitor, desk, speech):
    picture = (SAMPLES / "portrait.png").read_bytes()
    portrait = visitor.ask("PUT", "/api/files/portrait?name=me.png", picture)[2]["id"]
    audio = visitor.ask("PUT", "/api/files/audio?name=hello.wav", speech)[2]["id"]
    first = visitor.submit(evaluations=500)[1]["id"]
    visitor.state(first, "running")
    waiting, other = (visitor.submit(portrait=portrait, audio=audio)[1]["id"] for _ in range(2))
    assert visitor.ask("DELETE", "/api/files")[0] == 200
    assert len(list(desk._home.rglob("portrait"))) == 2
    for job in (first, other):
        assert visitor.ask("DELETE", f"/api/jobs/{job}")[0] == 200
    assert len(list(desk._home.rglob("portrait"))) == 1
    assert visitor.state(waiting, "done", "failed")["state"] == "done"
    assert [path.name for path in desk._home.rglob("*") if path.is_file()] == ["video.mp4"]


@pytest.mark.parametrize("why", [errno.EXDEV, errno.EPERM])
def test_files_are_copied_where_they_cannot_be_linked(visitor, desk, speech, monkeypatch, why):
    def refused(*_):
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(os, "link", refused)
    audio = visitor.ask("PUT", "/api/files/audio?name=hello.wav", speech)[2]["id"]
    first = visitor.submit(evaluations=500)[1]["id"]
    visitor.state(first, "running")
    visitor.submit(audio=audio)
    assert visitor.ask("DELETE", "/api/files")[0] == 200
    assert [path.read_bytes() for path in desk._home.rglob("audio")] == [speech]


def test_too_many_wait(visitor):
    jobs = [visitor.submit(evaluations=500)[1]["id"]]
    visitor.state(jobs[0], "running")
    jobs += [visitor.submit()[1]["id"] for _ in range(LIMITS.max_waiting)]
    status, told = visitor.submit()
    assert status == 503 and told["message"].startswith("2 videos are waiting already")
    for job in reversed(jobs):
        assert visitor.ask("DELETE", f"/api/jobs/{job}")[0] == 200


@pytest.mark.parametrize(
    "kind, name, body, status, message",
    [
        ("portrait", "a.png", b"nothing", 422, "a.png: not a supported picture format"),
        ("portrait", "a.png", b"", 422, "a.png: the file is empty"),
        ("audio", "a.wav", b"nothing", 422, "a.wav: "),
        ("audio", "../../a.wav", (SAMPLES / "portrait.png").read_bytes(), 422, "a.wav: "),
        (
            "audio",
            "long.wav",
            (SAMPLES / "speech.wav").read_bytes(),
            422,
            "long.wav: 6 s of sound; the maximum is 4 s",
        ),
        (
            "portrait",
            "big.png",
            b"x" * ((1 << 20) + 1),
            413,
            "big.png: over 1 MB; give a smaller file",
        ),
    ],
)
def test_files_that_cannot_be_used_are_one_line(visitor, desk, kind, name, body, status, message):
    answered, _, told = visitor.ask("PUT", f"/api/files/{kind}?name={name}", body)
    assert answered == status and told["field"] == kind and told["message"].startswith(message)
    assert "\n" not in told["message"] and str(desk._home) not in told["message"]
    assert not list(desk._home.iterdir())


def test_an_hour_of_silence_and_a_huge_picture_are_refused_within_little_memory(
    visitor, desk, tmp_path
):
    desk.limits = LIMITS.model_copy(update={"max_picture_px": 10_000})
    with av.open(str(tmp_path / "hour.flac"), "w") as container:
        stream = container.add_stream("flac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 60 * 8000), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = 8000
        for minute in range(60):
            frame.pts = minute * 60 * 8000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    tracemalloc.start()
    hour = visitor.ask(
        "PUT", "/api/files/audio?name=hour.flac", (tmp_path / "hour.flac").read_bytes()
    )
    wide = visitor.ask(
        "PUT", "/api/files/portrait?name=wide.png", (SAMPLES / "portrait.png").read_bytes()
    )
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (hour[0], hour[2]["message"]) == (
        422,
        "hour.flac: 3600 s of sound; the maximum is 4 s",
    )
    assert (wide[0], wide[2]["field"]) == (
        422,
        "portrait",
    ) and "megapixels; downscale the picture" in wide[2]["message"]
    assert peak_bytes < 20 << 20 and not list(desk._home.iterdir())


def test_all_visitors_together_have_limits_too(port, desk):
    picture = (SAMPLES / "portrait.png").read_bytes()
    desk.limits = LIMITS.model_copy(
        update={"max_all_files": 4, "max_all_bytes": round(2.5 * len(picture))}
    )
    ann, bob = Visitor(port), Visitor(port)
    send = ("PUT", "/api/files/portrait?name=me.png", picture)
    portrait = ann.ask(*send)[2]["id"]
    assert bob.ask(*send)[0] == 200
    job = ann.submit(portrait=portrait, evaluations=500)[1]["id"]  # a second name of the same file
    status, _, told = Visitor(port).ask(*send)
    assert (status, told["field"]) == (507, "portrait") and told["message"].startswith(
        "me.png: storage for uploads is full"
    )
    desk.limits = desk.limits.model_copy(update={"max_all_bytes": 2 * len(picture)})
    status, told = bob.submit()
    assert (status, told["field"]) == (507, "") and "the storage for videos is full" in told[
        "message"
    ]
    desk.limits = LIMITS.model_copy(update={"max_all_files": 2})
    status, _, told = Visitor(port).ask(*send)
    assert (status, told["field"]) == (503, "portrait") and "too many uploads" in told["message"]
    assert bob.ask("DELETE", "/api/files")[0] == 200 and Visitor(port).ask(*send)[0] == 200
    assert ann.ask("DELETE", f"/api/jobs/{job}")[0] == 200


def begun_upload(visitor, body):
    """A connection on which a picture is announced and its first bytes sent."""
    connection = http.client.HTTPConnection("127.0.0.1", visitor.port, timeout=10)
    connection.putrequest("PUT", "/api/files/portrait?name=slow.png")
    for name, value in (visitor.headers | {"Content-Length": str(len(body))}).items():
        connection.putheader(name, value)
    connection.endheaders(body[:100])
    return connection


def test_uploads_on_their_way_count_and_do_not_stay(visitor, port, desk):
    picture = (SAMPLES / "portrait.png").read_bytes()
    desk.limits = LIMITS.model_copy(
        update={"max_all_bytes": round(1.5 * len(picture)), "max_upload_s": 1.0}
    )
    with closing(begun_upload(visitor, picture)) as slow:
        while not list(desk._home.rglob("portrait")):
            time.sleep(0.02)
        status, _, told = Visitor(port).ask("PUT", "/api/files/portrait?name=me.png", picture)
        assert status == 507 and "storage for uploads is full" in told["message"]
        answer = slow.getresponse()
        assert answer.status == 408 and json.loads(answer.read())["field"] == "portrait"
    begun_upload(visitor, picture).close()
    end = time.monotonic() + 5
    while list(desk._home.iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    assert Visitor(port).ask("PUT", "/api/files/portrait?name=me.png", picture)[0] == 200


def test_a_large_upload_is_refused_before_it_is_sent(visitor):
    with closing(http.client.HTTPConnection("127.0.0.1", visitor.port, timeout=10)) as connection:
        connection.putrequest("PUT", "/api/files/portrait?name=huge.png")
        for name, value in (visitor.headers | {"Content-Length": str(50 << 20)}).items():
            connection.putheader(name, value)
        connection.endheaders(b"first bytes")
        assert connection.getresponse().status == 413


def test_a_picture_without_a_face_fails_as_in_the_terminal(visitor, tmp_path):
    from PIL import Image

    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "wall.png")
    portrait = visitor.ask(
        "PUT", "/api/files/portrait?name=wall.png", (tmp_path / "wall.png").read_bytes()
    )[2]["id"]
    told = visitor.state(visitor.submit(portrait=portrait)[1]["id"], "failed")
    assert "no face" in told["reason"] and "/tmp" not in told["reason"]


@pytest.mark.parametrize(
    "wish, field, words",
    [
        ({"consent": False}, "consent", "may use this person's face"),
        ({"model": "huge"}, "model", "there are tiny"),
        ({"evaluations": 0}, "evaluations", "greater than or equal to 1 (got '0')"),
        ({"guidance": -1}, "guidance", "greater than or equal to 0"),
        (
            {"size": 127},
            "size",
            "give auto or a whole number of pixels from 128 to 1024 (got '127')",
        ),
        ({"size": "large"}, "size", "give auto or"),
        ({"size": True}, "size", "give auto or"),
        ({"frame": "half"}, "frame", "'whole' or 'face'"),
        ({"head": 2.5}, "head", "less than or equal to 2 (got '2.5')"),
        ({"lips": -0.1}, "lips", "greater than or equal to 0"),
        ({"eyes": "wide"}, "eyes", "valid number"),
        ({"portrait": "nothing"}, "portrait", "choose one again"),
        ({"audio": "portrait.png"}, "audio", "choose one again"),
        ({"colour": "red"}, "colour", "Extra inputs"),
    ],
)
def test_wishes_that_cannot_be_meant(visitor, wish, field, words):
    status, told = visitor.submit(**wish)
    assert (status, told["field"]) == (422, field) and words in told["message"]


def test_other_sites_and_other_names_are_refused(visitor, port):
    assert visitor.ask("GET", "/", Host=f"evil.example:{port}")[0] == 403
    assert visitor.ask("DELETE", "/api/files", Origin="http://evil.example")[0] == 403
    assert (
        visitor.ask(
            "DELETE", "/api/files", Origin=f"http://127.0.0.1:{port}", Host=f"127.0.0.1:{port}"
        )[0]
        == 200
    )
    status, headers, _ = visitor.ask("GET", "/static/make.js")
    assert (
        status == 200
        and "script-src 'self'" in headers["content-security-policy"]
        and "etag" not in headers
    )


@pytest.mark.parametrize(
    "header, value",
    [
        ("Host", "["),
        ("Host", "[::1"),
        ("Host", "[x]:80"),
        ("Origin", "http://["),
        ("Origin", "http://[x]"),
    ],
)
def test_names_that_cannot_be_are_refused(visitor, header, value):
    status, headers, told = visitor.ask("GET", "/", **{header: value})
    assert (status, told["field"], headers["cache-control"]) == (403, "", "no-store")


@pytest.mark.parametrize(
    "method, path, body, headers, status, words",
    [
        ("POST", "/api/jobs", "{not json", {}, 422, "no JSON object"),
        ("POST", "/api/jobs", "[" * 60_000, {}, 422, "no JSON object"),
        ("POST", "/api/jobs", "[]", {}, 422, "no JSON object"),
        ("POST", "/api/jobs", b"\xff\xfe", {}, 422, "no JSON object"),
        ("POST", "/api/jobs", " " * (1 << 17), {}, 413, "over 65536 bytes"),
        ("POST", "/api/settings", "", {}, 405, "Method Not Allowed"),
        ("GET", "/nowhere", None, {}, 404, "Not Found"),
        ("GET", "/static/nothing.js", None, {}, 404, "Not Found"),
        ("DELETE", "/api/files", None, {"Origin": "http://evil.example"}, 403, "another site"),
        ("GET", "/", None, {"Host": "evil.example"}, 403, "another name"),
        ("PUT", "/api/files/film", b"x", {}, 422, "kind: "),
    ],
)
def test_every_refusal_has_field_and_message(visitor, method, path, body, headers, status, words):
    answered, _, told = visitor.ask(method, path, body, **headers)
    assert answered == status and set(told) == {"field", "message"} and words in told["message"], (
        told
    )


def test_a_fault_of_the_server_has_them_too(visitor, desk, monkeypatch):
    monkeypatch.setattr(desk, "find", lambda *_: 1 / 0)
    status, headers, told = visitor.ask("GET", "/api/jobs/any")
    assert (status, told["field"], headers["x-content-type-options"]) == (500, "", "nosniff")


def test_what_nobody_asks_for_is_forgotten(visitor, desk, speech):
    audio = visitor.ask("PUT", "/api/files/audio?name=hello.wav", speech)[2]["id"]
    job = visitor.submit(audio=audio)[1]["id"]
    visitor.state(job, "done")
    desk.limits = LIMITS.model_copy(update={"keep_s": 0.0})
    desk.forget()
    assert visitor.ask("GET", f"/api/jobs/{job}")[0] == 404 and not list(
        desk._home.rglob("video.mp4")
    )


def test_an_idle_server_forgets_too():
    with served(Desk(LIMITS.model_copy(update={"keep_s": 0.4}))) as port:
        visitor = Visitor(port)
        picture = (SAMPLES / "portrait.png").read_bytes()
        portrait = visitor.ask("PUT", "/api/files/portrait?name=me.png", picture)[2]["id"]
        assert visitor.submit(portrait=portrait, audio="nothing")[1]["field"] == "audio"
        time.sleep(1.2)
        assert visitor.submit(portrait=portrait, audio="nothing")[1]["field"] == "portrait"


def test_the_command_serves_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "flowportrait", "serve", "--port", "0"]
    there = os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)}
    # As from a terminal: a shell's background processes ignore the interruption.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        env=there,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        port = int(re.match(r"http://127.0.0.1:(\d+)/", process.stdout.readline())[1])
        for _ in range(100):
            try:
                visitor = Visitor(port)
                break
            except ConnectionError:
                time.sleep(0.1)
        visitor.state(visitor.submit()[1]["id"], "running", "done")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert not list(tmp_path.glob("flowportrait-*"))


def test_a_port_in_use_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.run(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen on this address" in capsys.readouterr().err


def test_a_browser_makes_a_video(port, tmp_path):
    """Samples, refusals at their fields, a video that plays, and no request to anywhere else."""
    (tmp_path / "no.png").write_bytes(b"nothing")
    with browser() as page:
        page.open(f"http://127.0.0.1:{port}/")
        page.until("document.querySelector('#portrait-samples button') !== null")
        page.type("#portrait", str(tmp_path / "no.png"))
        page.until(
            "document.querySelector('#portrait-error').textContent.startsWith('no.png: not a"
            " picture')"
        )
        page.click("#portrait-samples button")
        page.click("#audio-sample")
        page.click("summary")
        page.type("#evaluations", "2")
        page.click("#make")
        page.until("document.querySelector('#consent-error').textContent.includes('consent')")
        page.click("#consent")
        page.type("#size", "5000")
        page.click("#make")
        page.until(
            "document.querySelector('#option-error').textContent.startsWith('size: give auto or')"
        )
        assert (
            page.run("return document.activeElement.id + document.activeElement.ariaInvalid")
            == "sizetrue"
        )
        page.run("document.querySelector('#size').value = 256")
        page.click("#make")
        page.until("!document.querySelector('#made').hidden", within_s=90)
        page.until("document.querySelector('#video').src.endsWith('/video')", within_s=30)
        page.until("document.querySelector('#video').readyState >= 2")
        assert page.run("return document.querySelector('#video').duration") == pytest.approx(
            6.3, abs=0.2
        )
        asked = page.run(
            "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        )
        page.click("#delete")
        page.until("document.querySelector('#work').hidden")
    assert [
        url for url in asked if f":{port}/" not in url and not url.startswith(("data:", "blob:"))
    ] == []

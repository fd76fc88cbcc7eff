"""Videos that are watched while they are made: over HTTP, and in a real browser where there is
one.
"""

import http.client
import io
import os
import signal
import time
from contextlib import closing

import av
import numpy as np
import pytest

from flowportrait import media

pytest.importorskip("uvicorn", reason="flowportrait[web] is not installed")
from page_server import Visitor, served  # noqa: E402
from webdriver import browser  # noqa: E402

from flowportrait import composite  # noqa: E402
from flowportrait.web import api  # noqa: E402
from flowportrait.web.jobs import Desk, ServerLimits  # noqa: E402

LIMITS = ServerLimits(max_watching=2)
SPEECH_S = 6.27
SLOW = {"size": 768, "frame": "face"}  # so that there is time to look


def open_stream(visitor, job):
    """The connection of a request for a growing video, and its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", visitor.port, timeout=60)
    connection.request("GET", f"/api/jobs/{job}/stream", headers=visitor.headers)
    return connection, connection.getresponse()


def decoded(data):
    """Metadata, times and pictures of the frames, start and samples of the sound."""
    with av.open(io.BytesIO(data)) as container:
        metadata, frames = dict(container.metadata), list(container.decode(video=0))
    with av.open(io.BytesIO(data)) as container:
        sound = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray() for frame in sound], axis=1)
    times = [float(frame.pts * frame.time_base) for frame in frames]
    return (
        metadata,
        times,
        [frame.to_ndarray() for frame in frames],
        float(sound[0].pts * sound[0].time_base),
        samples,
    )


def test_the_stream_is_the_video_before_it_is_finished(visitor):
    job = visitor.submit(**SLOW)[1]["id"]
    connection, answer = open_stream(visitor, job)
    with closing(connection):
        assert (answer.status, answer.headers["content-type"]) == (200, "video/mp4")
        assert (
            answer.headers["transfer-encoding"] == "chunked"
            and answer.headers["cache-control"] == "no-store"
        )
        first = answer.read1(1 << 18)
        told = visitor.ask("GET", f"/api/jobs/{job}")[2]
        assert told["state"] == "running" and 0 < told["frames"] < told["num_frames"] == 150
        streamed = first + answer.read()
    told = visitor.state(job, "done", within_s=5)
    assert told["frames"] == told["num_frames"] and told["warnings"] == []
    metadata, times, pictures, sound_at, sound = decoded(streamed)
    finished = visitor.ask("GET", f"/api/jobs/{job}/video")[2]
    for_keeps = decoded(finished)
    assert (
        metadata["title"] == "AI-generated talking portrait"
        and "synthetic=true" in metadata["description"]
    )
    assert metadata["description"] == for_keeps[0]["description"]
    assert (
        times == pytest.approx([number / 24 for number in range(150)], abs=1e-3)
        and times == for_keeps[1]
    )
    assert all(
        np.array_equal(one, other) for one, other in zip(pictures, for_keeps[2], strict=True)
    )
    assert sound_at == for_keeps[3] == 0 and sound.shape[1] / 48000 == pytest.approx(
        SPEECH_S, abs=1024 / 48000
    )
    assert np.array_equal(sound, for_keeps[4])
    assert b"moof" not in finished and finished.index(b"moov") < finished.index(b"mdat")
    assert streamed.count(b"moof") > 20


def test_only_the_finished_video_stays(visitor, desk):
    job = visitor.submit(evaluations=1, size=128, frame="face")[1]["id"]
    visitor.state(job, "done")
    status, _, told = visitor.ask("GET", f"/api/jobs/{job}/stream")
    assert status == 404 and told["field"] == "" and "no longer being made" in told["message"]
    end = time.monotonic() + 5
    while (
        len(names := [path.name for path in desk._home.rglob("*.*")]) > 1 and time.monotonic() < end
    ):
        time.sleep(0.02)
    assert names == ["video.mp4"]


def test_cancelling_in_the_middle_ends_the_stream(visitor, port, desk):
    job = visitor.submit(**SLOW)[1]["id"]
    assert Visitor(port).ask("GET", f"/api/jobs/{job}/stream")[0] == 404
    connection, answer = open_stream(visitor, job)
    with closing(connection):
        seen = answer.read1(1 << 18)
        assert visitor.ask("DELETE", f"/api/jobs/{job}")[0] == 200
        begun = time.monotonic()
        seen += answer.read()
        assert time.monotonic() - begun < 2
    assert 0 < len(decoded(seen)[1]) < 150
    end = time.monotonic() + 5
    while list(desk._home.rglob("*")) and time.monotonic() < end:
        time.sleep(0.02)
    assert not list(desk._home.rglob("*"))


def test_a_process_that_dies_in_the_middle_ends_the_stream(visitor, desk):
    job = visitor.submit(**SLOW)[1]["id"]
    connection, answer = open_stream(visitor, job)
    with closing(connection):
        assert answer.read1(1 << 18)
        os.kill(desk._process.pid, signal.SIGKILL)
        answer.read()
    assert visitor.state(job, "failed", within_s=5)["reason"].startswith(
        "the process that made it stopped"
    )
    end = time.monotonic() + 5
    while list(desk._home.rglob("*.*")) and time.monotonic() < end:
        time.sleep(0.02)
    assert not list(desk._home.rglob("*.*"))


def test_those_who_go_away_make_room_for_others(visitor):
    job = visitor.submit(evaluations=500)[1]["id"]
    watching = [open_stream(visitor, job) for _ in range(LIMITS.max_watching)]
    status, _, told = visitor.ask("GET", f"/api/jobs/{job}/stream")
    assert status == 503 and told["message"].startswith("2 videos are already being streamed")
    for connection, answer in watching:
        answer.close()
        connection.close()
    end, status = time.monotonic() + 10, 503
    while status == 503 and time.monotonic() < end:
        time.sleep(0.1)
        connection, answer = open_stream(visitor, job)
        status = answer.status
    assert status == 200
    assert visitor.ask("DELETE", f"/api/jobs/{job}")[0] == 200
    assert answer.read() == b""
    connection.close()


def test_a_server_that_ends_does_not_wait_for_those_who_watch():
    with served(Desk(LIMITS)) as port:
        visitor = Visitor(port)
        connection, answer = open_stream(visitor, visitor.submit(evaluations=500)[1]["id"])
        begun = time.monotonic()
    assert time.monotonic() - begun < 5 and answer.read() == b""
    connection.close()


def test_sizes_are_those_of_the_pipeline():
    assert api.SIZES_PX == composite.SIZES_PX


def test_options_reach_the_video(visitor, tmp_path):
    asked = {"size": 130, "frame": "face", "head": 0, "lips": 0, "eyes": 0, "evaluations": 1}
    job = visitor.submit(**asked)[1]["id"]
    visitor.state(job, "done")
    (tmp_path / "v.mp4").write_bytes(visitor.ask("GET", f"/api/jobs/{job}/video")[2])
    frames = media.Clip(tmp_path / "v.mp4").frames.astype(float)
    assert frames.shape[1:] == (130, 130, 3) and np.abs(np.diff(frames, axis=0)).mean() < 1


LOOK = """
const video = document.querySelector("#video");
const seconds = video.currentTime, sound = video.webkitAudioDecodedByteCount;
return fetch(`/api/jobs/${job}`).then((answer) => answer.json())
  .then(({state}) => ({state, seconds, sound}));
"""


def test_a_browser_plays_the_video_while_it_is_made(port):
    with browser() as page:
        page.open(f"http://127.0.0.1:{port}/")
        page.until("document.querySelector('#portrait-samples button') !== null")
        page.click("#portrait-samples button")
        page.click("#audio-sample")
        page.click("#consent")
        page.click("summary")
        page.run("document.querySelector('#size').value = 1024")
        page.click("#make")
        page.until("!document.querySelector('#video').hidden", within_s=60)
        looks = [page.run(LOOK)]
        while looks[-1]["state"] == "running":
            looks.append(page.run(LOOK))
        running = [look for look in looks if look["state"] == "running"]
        assert len({look["seconds"] for look in running}) > 3 and running[-1]["seconds"] > 0.2, (
            looks
        )
        assert running[-1]["sound"] > 0, looks
        page.until("document.querySelector('#video').src.endsWith('/video')", within_s=60)
        assert (
            page.run("return document.querySelector('#video').loop")
            and looks[-1]["state"] == "done"
        )
        page.click("#delete")
        page.until("document.querySelector('#work').hidden")

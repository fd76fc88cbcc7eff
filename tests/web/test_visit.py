"""A visit in a real browser: what is loaded again, recorded, photographed, queued and deleted."""

import json
import re
import wave
from pathlib import Path

import numpy as np
import pytest

from flowportrait import media

pytest.importorskip("uvicorn", reason="flowportrait[web] is not installed")
from axe import findings  # noqa: E402
from page_server import Visitor, served  # noqa: E402
from webdriver import browser  # noqa: E402

from flowportrait.web.jobs import Desk, Job, ServerLimits  # noqa: E402

SAMPLES = Path(__file__).parents[2] / "flowportrait" / "samples"
LIMITS = ServerLimits(max_sound_s=8.0, max_waiting=4)
FAKE_DEVICES = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
TAB, ENTER, SPACE = "\ue004", "\ue007", " "


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A second of the sample speech as a WAV file."""
    sound = media.read_audio(SAMPLES / "speech.wav")
    path = tmp_path_factory.mktemp("speech") / "short.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, sound.sample_rate, 0, "NONE", ""))
        file.writeframes((sound.samples[: sound.sample_rate] * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def page():
    """A browser with a camera and a microphone."""
    with browser(*FAKE_DEVICES) as opened:
        yield opened


def arrive(page, port):
    """As a new visitor."""
    page.open(f"http://127.0.0.1:{port}/")
    page._devtools("Network.clearBrowserCookies", {})
    page.run("sessionStorage.clear()")
    page.open(f"http://127.0.0.1:{port}/")
    page.until("document.querySelector('#portrait-samples button') !== null")


def reload(page):
    page.open(page.run("return location.href"))
    page.until("document.querySelector('#portrait-samples button') !== null")


def fill(page, speech, evaluations=2):
    page.click("#portrait-samples button")
    page.type("#audio", str(speech))
    page.until("document.querySelector('#audio-name').textContent === 'short.wav'")
    page.click("#consent")
    page.run(f"document.querySelector('#evaluations').value = {evaluations}")


def text(page, selector):
    return page.run(f"return document.querySelector('{selector}').textContent")


def test_a_reload_in_the_middle_and_at_the_end_shows_the_video_again(page, port, speech):
    arrive(page, port)
    fill(page, speech, evaluations=60)
    page.click("#make")
    page.until("document.querySelector('#words').textContent !== ''")
    reload(page)
    page.until(
        "!document.querySelector('#work').hidden && !document.querySelector('#going').hidden"
    )
    assert "short.wav" in text(page, "#work-title") and text(page, "#audio-name") == "short.wav"
    page.until("document.querySelector('#audio-view').duration > 0.9")
    page.until("!document.querySelector('#made').hidden", within_s=120)
    reload(page)
    page.until("document.querySelector('#video').readyState >= 2")
    assert page.run("return document.querySelector('#download').href").endswith("?download=1")
    page.click("#delete")
    page.until("document.querySelector('#gallery').hidden")
    reload(page)
    assert page.run("return document.querySelector('#work').hidden")


def test_cancelling_after_a_reload_stops_it(page, port, desk, speech):
    arrive(page, port)
    fill(page, speech, evaluations=900)
    page.click("#make")
    page.until("document.querySelector('#words').textContent !== ''")
    reload(page)
    page.until(
        "!document.querySelector('#going').hidden && !document.querySelector('#work').hidden"
    )
    page.click("#cancel")
    page.until(
        "document.querySelector('#work').hidden && document.querySelector('#gallery').hidden"
    )
    assert not desk._jobs


def test_several_portraits_are_a_queue_and_deleting_takes_all(page, port, desk, speech):
    arrive(page, port)
    fill(page, speech)
    portraits = "\n".join(str(SAMPLES / f"portrait_{kind}_hair.jpg") for kind in ("long", "short"))
    page.type("#portrait-more", portraits)
    page.until("document.querySelectorAll('#portraits img').length === 3")
    assert text(page, "#make") == "Make 3 videos"
    page.click("#portraits li:last-child .remove")
    assert text(page, "#make") == "Make 2 videos"
    page.click("#make")
    page.until("document.querySelectorAll('#videos li').length === 2")
    page.until("document.querySelectorAll('#videos video').length === 2", within_s=120)
    names = page.run("return [...document.querySelectorAll('#videos b')].map((b) => b.textContent)")
    assert names == ["portrait_long_hair.jpg, short.wav", "portrait.png, short.wav"]
    page.click("#videos li:first-child .buttons button")
    page.until("document.querySelector('#work-title').textContent.includes('long_hair')")
    page.click("#forget")
    page.until("document.querySelector('#audio-name').textContent === 'Deleted'")
    assert not desk._jobs and not [path for path in desk._home.rglob("*") if path.is_file()]
    reload(page)
    assert text(page, "#portrait-name").startswith("No picture yet")


def test_two_visitors_see_their_own(page, port, speech):
    ann = Visitor(port)
    job = ann.submit()[1]["id"]
    arrive(page, port)
    fill(page, speech)
    page.click("#make")
    page.until("document.querySelectorAll('#videos li').length === 1")
    assert [one["id"] for one in ann.ask("GET", "/api/jobs")[2]] == [job]
    assert page.run("return fetch('/api/jobs').then((a) => a.json()).then((a) => a.length)") == 1
    assert ann.ask("DELETE", "/api/jobs")[0] == 200
    page.until("!document.querySelector('#made').hidden", within_s=120)


def test_a_recording_has_a_clock_and_a_level_and_can_be_heard_and_made_again(page, port):
    arrive(page, port)
    page.click("#record")
    page.until("document.querySelector('#level').value > 0.2")
    page.until("document.querySelector('#clock').textContent.startsWith('0:02 of 0:08')")
    assert text(page, "#record") == "Stop"
    page.click("#record")
    page.until("document.querySelector('#audio-name').textContent.startsWith('recording.')")
    assert text(page, "#record") == "Record again" and text(page, "#audio-error") == ""
    assert page.run("return document.querySelector('#recording').hidden")
    page.run("document.querySelector('#audio-view').play()")
    page.until("document.querySelector('#audio-view').currentTime > 0.2")
    first = page.run("return chosen.audio.id")
    page.click("#record")
    page.until("document.querySelector('#clock').textContent.startsWith('0:01')")
    page.click("#record")
    page.until(f"chosen.audio.id !== '{first}'")


def test_a_picture_is_taken_with_the_camera(page, port):
    arrive(page, port)
    page.click("#camera-open")
    page.until("document.querySelector('#finder').videoWidth > 0")
    page.click("#shoot")
    page.click("#camera-again")
    assert page.run("return document.querySelector('#still').hidden")
    page.click("#shoot")
    page.click("#camera-use")
    page.until("document.querySelector('#portrait-name').textContent === 'camera.png'")
    assert not page.run("return document.querySelector('#camera').open")
    assert page.run("return camera.getTracks().every((track) => track.readyState === 'ended')")
    page.until("document.querySelector('#portraits img').naturalWidth > 100")


def test_a_video_is_made_by_keyboard_alone(page, port):
    arrive(page, port)

    def go_to(condition):
        for _ in range(40):
            page.press(TAB)
            if page.run(f"return document.activeElement.matches('{condition}')"):
                return
        raise AssertionError(f"{condition} is not reached")

    go_to("#portrait-samples button")
    page.press(ENTER)
    go_to("#audio-sample")
    page.press(ENTER)
    go_to("summary")
    page.press(SPACE)
    go_to("#evaluations")
    page.press("2")
    go_to("#consent")
    page.press(SPACE)
    go_to("#make")
    page.press(ENTER)
    page.until("!document.querySelector('#work').hidden")
    go_to("#cancel")
    page.press(ENTER)
    page.until("document.querySelector('#work').hidden")


@pytest.mark.parametrize("width, dark", [(390, False), (1280, True)])
def test_the_page_fits_and_axe_finds_nothing_serious(page, port, speech, width, dark):
    arrive(page, port)
    page.emulate(width, 844, dark)
    assert findings(page) == []
    fill(page, speech)
    page.click("summary")
    page.click("#make")
    page.until("!document.querySelector('#made').hidden", within_s=120)
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert findings(page) == []
    page.open(f"http://127.0.0.1:{port}/docs")
    assert "POST /api/jobs" in text(page, "main") and findings(page) == []


def test_what_is_left_is_told_without_loading_and_in_minutes(page, port, monkeypatch):
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    job = Job("me", {}, Path("."), state="running", done=1, total=24)
    assert job.left_s is None
    job.begun_s, job.begun_at, job.done = 990.0, 1, 3
    assert job.left_s == pytest.approx(5.0 * 21)
    job.frames, job.num_frames = 50, 150
    assert job.left_s == pytest.approx(20.0)
    monkeypatch.undo()
    arrive(page, port)
    said = page.run("return [0.2, 59, 61, 200, 605, 2798].map(duration)")
    assert said == ["1 s", "59 s", "1 min", "3 min 20 s", "10 min", "46 min"]


TOKEN = "a-long-secret"


def test_a_token_is_asked_for(page):
    with served(Desk(LIMITS), TOKEN) as port:
        page.open(f"http://127.0.0.1:{port}/")
        assert "A token is needed" in text(page, "main")
        page.open(f"http://127.0.0.1:{port}/?token={TOKEN}")
        page.until("document.querySelector('#portrait-samples button') !== null")
        assert page.run("return location.href") == f"http://127.0.0.1:{port}/"
        bare = Visitor.__new__(Visitor)
        bare.port, bare.headers = port, {}
        status, headers, told = bare.ask("GET", "/api/jobs")
        assert (status, told["field"], headers["www-authenticate"]) == (401, "", "Bearer")
        for wrong in ("Bearer wrong", f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x"):
            assert bare.ask("GET", "/openapi.json", Authorization=wrong)[0] == 401
        bare.headers = {"Authorization": f"Bearer {TOKEN}"}
        assert bare.ask("GET", "/api/jobs")[2] == []


def test_a_program_uses_the_server_by_the_readme(tmp_path, monkeypatch, capsys):
    """The client in README.md, word for word, with files of its own."""
    document = (Path(__file__).parents[2] / "README.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", document, re.S)
    (program,) = [program for program in programs if "TOKEN" in program]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me.jpg").write_bytes((SAMPLES / "portrait_short_hair.jpg").read_bytes())
    (tmp_path / "speech.wav").write_bytes((SAMPLES / "speech.wav").read_bytes())
    with served(Desk(LIMITS), TOKEN) as port:
        program = program.replace("http://127.0.0.1:7860", f"http://127.0.0.1:{port}")
        exec(compile(program.replace("SECRET", TOKEN), "client", "exec"), {})
    assert len(list(media.read_frames(tmp_path / "talking.mp4"))) == 150


def test_what_programs_can_ask_for_is_described(visitor):
    status, _, described = visitor.ask("GET", "/openapi.json")
    assert status == 200 and described["info"]["title"] == "flowportrait"
    asked = {f"{m.upper()} {path}" for path, ways in described["paths"].items() for m in ways}
    assert {"POST /api/jobs", "GET /api/jobs", "DELETE /api/jobs", "PUT /api/files/{kind}"} <= asked
    wish = described["paths"]["/api/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert {"portrait", "audio", "consent", "size"} <= wish["schema"]["properties"].keys()
    made = described["components"]["schemas"]["Made"]["properties"]
    assert all("description" in made[name] for name in ("done", "left_s", "reason"))
    job = visitor.submit()[1]["id"]
    told = visitor.ask("GET", f"/api/jobs/{job}")[2]
    assert set(told) == set(made) and json.dumps(told)
    assert visitor.ask("DELETE", f"/api/jobs/{job}")[0] == 200


def test_an_upload_can_be_looked_at_by_its_own_visitor(visitor, port):
    picture = (SAMPLES / "portrait-512.png").read_bytes()
    portrait = visitor.ask("PUT", "/api/files/portrait?name=me.png", picture)[2]["id"]
    status, headers, shown = visitor.ask("GET", f"/api/files/{portrait}")
    assert (status, headers["content-type"], shown[:2]) == (200, "image/jpeg", b"\xff\xd8")
    assert Visitor(port).ask("GET", f"/api/files/{portrait}")[0] == 404
    audio = visitor.ask("PUT", "/api/files/audio", (SAMPLES / "speech.wav").read_bytes())[2]["id"]
    _, headers, sound = visitor.ask("GET", f"/api/files/{audio}")
    assert (headers["content-type"], sound[:4]) == ("audio/wav", b"RIFF")
    listed = visitor.ask("GET", "/api/files")[2]
    assert [(one["id"], one["kind"]) for one in listed] == [
        (portrait, "portrait"),
        (audio, "audio"),
    ]
    assert np.frombuffer(sound[44:], "<i2").std() > 100

"""The players of the evaluation's and the report's page, in a browser: from disk and from a server,
wide and narrow, light and dark.
"""

import http.server
import json
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra 'web' is not installed")
pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")

from webdriver import browser  # noqa: E402

from flowportrait import cli, media  # noqa: E402
from flowportrait.records import Score, read_jsonl, write_jsonl  # noqa: E402

PAGES = {"evaluate": "report/report.html", "report page": "site/page.html"}
PLAYING = """[...document.querySelector("section").querySelectorAll("video")]"""
NAMES = """[...document.querySelectorAll("section h3")].map((head) => head.innerText)"""


def write(path, seed, num_frames):
    """A clip with sound whose pictures move."""
    frames = np.random.default_rng(seed).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    frames = np.concatenate([np.roll(frames, index, axis=2) for index in range(num_frames)])
    sound = 0.1 * np.sin(np.arange(num_frames * 2000) * 0.05).astype(np.float32)
    media.write_video(path, frames, 24, sound, 48_000, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An evaluation of ten samples by two generators, and a report of its scores."""
    root = tmp_path_factory.mktemp("player")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for place in ("truth", "panels/sonic", "panels/a-long-name_of-1-generator"):
            Path(place).mkdir(parents=True)
            for index in range(10):
                longer = 12 * ("sonic" in place)
                write(Path(place) / f"s{index}.mp4", index + len(place), 24 + longer)
        panels = [f"panels/{name}" for name in ("sonic", "a-long-name_of-1-generator")]
        command = ["evaluate", *panels, "--truth", "truth", "--scorers", "sharpness", "--sets", ""]
        assert cli.run([*command, "-o", "report"]) == 0
        # Scores of another machine: only the ends of the paths are the same.
        rows = [
            row.model_copy(update={"clip": f"/lab/{row.clip}", "sha256": ""})
            for row in read_jsonl("report/scores.jsonl", Score)
        ]
        write_jsonl("scores.jsonl", rows)
        command = ["report", "page", "scores.jsonl", "-o", "site/page.html", "--truth", "truth"]
        assert cli.run([*command, "--videos", *panels]) == 0
    return root


@pytest.fixture(scope="module")
def window():
    with browser() as opened:
        yield opened


@contextmanager
def served(folder):
    """The address of a plain web server over a folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def choose(window, selector, value):
    window.run(
        "const field = document.querySelector(arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('change')); field.dispatchEvent(new Event('input'))",
        selector,
        value,
    )


@pytest.mark.parametrize("page", PAGES)
def test_clips_play_in_step_from_disk(folder, window, page):
    window.open(f"file://{folder / PAGES[page]}")
    assert window.run(f"return {PLAYING}.length") == 3
    window.click("section .transport button")
    window.until(f"{PLAYING}.every((video) => video.currentTime > 0.3)", 30)
    for _ in range(5):
        times = window.run(
            f"return {PLAYING}.filter((video) => !video.ended).map((video) => video.currentTime)"
        )
        assert max(times) - min(times) < 0.25
    # Only one is heard. The longest begins anew, the others wait at their end and follow.
    assert window.run(f"return {PLAYING}.map((video) => video.muted)") == [True, False, True]
    window.until(f"{PLAYING}.some((video) => video.ended)", 30)
    window.until(f"{PLAYING}.every((video) => !video.ended && video.currentTime < 0.7)", 30)
    # Another sample that is played stops this one, and so does a new order.
    window.click("section:nth-of-type(2) .transport button")
    assert window.run(f"return {PLAYING}.every((video) => video.paused)")
    window.run("window.first = document.querySelector('section:nth-of-type(2) video')")
    choose(window, "#search", "s3")
    assert window.run("return window.first.paused") and window.run(f"return {NAMES}") == ["s3"]


@pytest.mark.parametrize("page", PAGES)
def test_samples_are_sorted_filtered_and_found(folder, window, page):
    window.open(f"file://{folder / PAGES[page]}")
    data = json.loads(
        window.run("return document.getElementById('clips-data').textContent"),
    )
    assert [item["name"] for item in data["items"]] == [f"s{index}" for index in range(10)]
    assert len(window.run(f"return {NAMES}")) == 8
    window.click("#more")
    assert len(window.run(f"return {NAMES}")) == 10
    scores = {
        (item["name"], clip["generator"]): clip["scores"]["sharpness"]
        for item in data["items"]
        for clip in item["clips"]
    }
    assert len(scores) == 20
    choose(window, "#order", "rising sharpness")
    assert "worst first" in window.run(
        "return document.querySelector('#order').selectedOptions[0].text"
    )
    worst = sorted(
        data["items"], key=lambda item: min(c["scores"]["sharpness"] for c in item["clips"])
    )
    assert window.run(f"return {NAMES}") == [item["name"] for item in worst[:8]]
    window.click("#by-1")
    choose(window, "#order", "falling sharpness")
    best = sorted(data["items"], key=lambda item: -scores[item["name"], "sonic"])
    assert window.run(f"return {NAMES}") == [item["name"] for item in best[:8]]
    assert window.run(f"return {PLAYING}.length") == 2
    window.click("#lost")
    assert window.run(f"return {NAMES}") == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_the_videos_from_disk_and_from_a_server(folder, window, page):
    links = "[...document.querySelectorAll('figcaption a')].map((link) => link.href)"
    with served(folder) as address:
        for base in (f"file://{folder}", address):
            window.open(f"{base}/{PAGES[page]}")
            found = window.run(f"return {links}")
            assert len(found) == 8 * 3 and all(link.startswith(base) for link in found)
            assert all((folder / link.removeprefix(f"{base}/")).is_file() for link in found)
            window.click("section .transport button")
            window.until(f"{PLAYING}.every((video) => video.currentTime > 0.2)", 30)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)]
)
def test_it_fits_any_screen(folder, window, page, width, dark):
    window.emulate(width, 900, dark)
    window.open(f"file://{folder / PAGES[page]}")
    assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    # No column of words is narrower than a few letters, and no control is cut off.
    narrow = """[...document.querySelectorAll("figcaption, h3, label, th, td")]
        .filter((part) => part.innerText.length > 3 && part.getBoundingClientRect().width < 40)"""
    assert window.run(f"return {narrow}.length") == 0
    beyond = """[...document.querySelectorAll("#player *")]
        .filter((part) => part.getBoundingClientRect().right > innerWidth)"""
    assert window.run(f"return {beyond}.length") == 0
    ink = "return getComputedStyle(document.body).backgroundColor"
    assert window.run(ink) == ("rgb(22, 22, 24)" if dark else "rgb(255, 255, 255)")
    alike = """[...document.querySelectorAll("img, video, input[type=range], section select")]
        .filter((part) => !part.getAttribute("alt") && !part.getAttribute("aria-label"))"""
    assert window.run(f"return {alike}.length") == 0
    window.picture(folder / f"{page.split()[0]}-{width}-{'dark' if dark else 'light'}.png")

"""The raters' pages over a real server, and in a real browser where there is one."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from flowportrait import cli
from flowportrait.records import ASPECTS, Ranking, Rating, read_jsonl
from flowportrait.study.build import create
from flowportrait.study.store import Study
from flowportrait.study.tasks import StudyPlan

pytest.importorskip("uvicorn", reason="flowportrait[web] is not installed")
from axe import findings  # noqa: E402
from webdriver import browser  # noqa: E402

from flowportrait.web import study as pages  # noqa: E402
from flowportrait.web.guard import server_of  # noqa: E402

CLIPS = sorted((Path(__file__).parents[2] / "flowportrait" / "samples" / "world").glob("*.mp4"))
VERSIONS = ("original", "sonic")
SAMPLES = ("first-sample", "second-sample", "third-sample")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two samples of two versions, two raters, one sample to learn with."""
    folder = tmp_path_factory.mktemp("study")
    sources = {version: folder / version for version in VERSIONS}
    for number, source in enumerate(sources.values()):
        source.mkdir()
        for index, sample in enumerate(SAMPLES):
            shutil.copy(CLIPS[2 * index + number], source / f"{sample}.mp4")
    plan = StudyPlan(num_raters=2, raters_per_sample=2, num_repeats=0, num_training=1, seed=0)
    create(folder / "study", sources, ["ann", "bob"], plan, truth="original")
    return folder / "study"


@pytest.fixture
def study(made, tmp_path):
    """A copy that may be written to."""
    shutil.copytree(made, tmp_path / "study")
    return Study(tmp_path / "study")


@contextmanager
def raters_pages(study):
    """The port of a server that runs while this does."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = server_of(pages.study_app(study))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.fixture
def port(study):
    """Of a server that runs while the test does."""
    with raters_pages(study) as port:
        yield port


def ask(port, path, method="GET", body=None, **headers):
    """Status, headers and body of an answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def answer_to(task, score=4):
    """All that a rater says of a set, the first letter before the second."""
    items = task["items"]
    halves = {
        item["id"]: [[0, item["duration_s"] / 2], [item["duration_s"] / 2, item["duration_s"]]]
        for item in items
    }
    return {
        "scores": {item["id"]: dict.fromkeys(ASPECTS, score) for item in items},
        "groups": [[item["id"]] for item in items],
        "played": halves,
        "seconds": 12.5,
    }


def through(port, token, score):
    """Rates all sets, as the page does."""
    base = f"/r/{token}"
    for task in json.loads(ask(port, f"{base}/state")[2])["tasks"]:
        shown = json.loads(ask(port, f"{base}/task/{task['id']}")[2])
        status, _, body = ask(
            port, f"{base}/task/{task['id']}", "PUT", json.dumps(answer_to(shown, score))
        )
        assert (status, json.loads(body)) == (200, {"state": "new"})


def test_two_raters_at_the_same_time_and_the_export(study, port, tmp_path):
    tokens = {rater.name: rater.token for rater in study.raters()}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: through(port, tokens[name], {"ann": 4, "bob": 2}[name]), tokens))
    assert cli.run(["study", "export", str(study.directory), "-o", str(tmp_path / "out")]) == 0
    ratings = list(read_jsonl(tmp_path / "out" / "ratings.jsonl", Rating))
    assert len(ratings) == 2 * len(study.samples()) * len(VERSIONS) * len(ASPECTS)
    assert {(rating.rater, rating.score) for rating in ratings} == {("ann", 4), ("bob", 2)}
    rankings = list(read_jsonl(tmp_path / "out" / "rankings.jsonl", Ranking))
    assert {ranking.sample for ranking in rankings} == set(study.samples()) and len(rankings) == 4
    for ranking in rankings:
        assert sorted(name for group in ranking.groups for name in group) == sorted(VERSIONS)


def test_an_order_that_is_not_strict_is_exported(study, port, tmp_path):
    token = study.raters()[0].token
    counted = next(task for task in study.tasks(token) if not task.training)
    path = f"/r/{token}/task/{counted.id}"
    answer = answer_to(json.loads(ask(port, path)[2])) | {"between": [">="]}
    assert ask(port, path, "PUT", json.dumps(answer))[0] == 200
    assert json.loads(ask(port, path)[2])["answer"]["between"] == [">="]
    assert cli.run(["study", "export", str(study.directory), "-o", str(tmp_path / "out")]) == 0
    assert [
        ranking.between for ranking in read_jsonl(tmp_path / "out" / "rankings.jsonl", Ranking)
    ] == [[">="]]


def test_nothing_tells_what_a_clip_is(study, port):
    rater = study.raters()[0]
    base = f"/r/{rater.token}"
    state = json.loads(ask(port, f"{base}/state")[2])
    shown = [json.loads(ask(port, f"{base}/task/{task['id']}")[2]) for task in state["tasks"]]
    assert all(
        set(task) == {"id", "number", "total", "training", "items", "answer"} for task in shown
    )
    paths = [base, f"{base}/state", "/static/study.js", "/static/study.css"]
    paths += [f"{base}/task/{task['id']}" for task in shown]
    paths += [f"{base}/media/{item['id']}" for task in shown for item in task["items"]]
    for path in paths:
        status, headers, body = ask(port, path)
        assert status == 200
        names = {name.lower() for name in headers}
        assert (
            not names & {"etag", "last-modified", "content-disposition", "server"}
            and headers["cache-control"] == "no-store"
        )
        assert "default-src 'none'" in headers["content-security-policy"]
        said = (str(headers) + body.decode("latin-1")).lower()
        assert not any(word in said for word in (*SAMPLES, "sonic", "bob", "x264"))


def test_other_names_and_other_sites_are_refused(study, port):
    link = f"/r/{study.raters()[0].token}"
    assert ask(port, link)[0] == ask(port, link, Host=f"localhost:{port}")[0] == 200
    for headers in ({"Host": f"evil.example:{port}"}, {"Host": "["}, {"Origin": "http://["}):
        status, _, body = ask(port, link, **headers)
        assert status == 403 and json.loads(body)["code"] == "forbidden"


def test_media_in_parts_and_for_their_own_rater_only(study, port):
    ann, bob = (rater.token for rater in study.raters())
    item = study.tasks(ann)[0].items[0]
    whole = study.media(ann, item.id).read_bytes()
    status, headers, body = ask(port, f"/r/{ann}/media/{item.id}", Range="bytes=100-199")
    assert (status, body, headers["content-type"]) == (206, whole[100:200], "video/mp4")
    assert headers["content-range"] == f"bytes 100-199/{len(whole)}"
    status, _, body = ask(port, f"/r/{bob}/media/{item.id}")
    assert status == 404 and json.loads(body)["code"] == "unknown_item"
    status, _, body = ask(port, f"/r/{bob}/task/{study.tasks(ann)[0].id}")
    assert status == 404 and json.loads(body)["code"] == "unknown_task"


@pytest.mark.parametrize(
    "link", ["/r/nobody", "/r/nobody/state", "/r/nobody/task/x", "/r/nobody/media/x"]
)
def test_a_link_that_is_not_known(port, link):
    status, headers, body = ask(port, link)
    assert status == 404 and (b"not known" in body or json.loads(body)["code"] == "unknown_rater")
    assert ask(port, "/openapi.json")[0] == ask(port, "/docs")[0] == ask(port, "/r/")[0] == 404


@pytest.mark.parametrize(
    "change, code, words",
    [
        (lambda a, item: a["played"].update({item: [[0, 0.2]]}), "unwatched", "0.2 of"),
        (lambda a, item: a["scores"][item].pop("motion"), "bad_rating", "no score for motion"),
        (
            lambda a, item: a["scores"][item].update(motion=6),
            "bad_rating",
            "less than or equal to 5",
        ),
        (lambda a, item: a["groups"].append([item]), "bad_ranking", "at most once"),
        (lambda a, item: a.update(comment="x" * 3000), "bad_rating", "comment"),
        (lambda a, item: a.update(comment="x" * (1 << 20)), "bad_rating", "1048576 bytes"),
    ],
)
def test_what_breaks_a_rule_is_refused_and_nothing_kept(study, port, change, code, words):
    token = study.raters()[0].token
    task = json.loads(ask(port, f"/r/{token}/task/{study.tasks(token)[0].id}")[2])
    answer = answer_to(task)
    change(answer, task["items"][0]["id"])
    status, _, body = ask(port, f"/r/{token}/task/{task['id']}", "PUT", json.dumps(answer))
    told = json.loads(body)
    assert (status, told["code"]) == (422, code) and words in told["message"]
    assert ask(port, f"/r/{token}/task/{task['id']}", "PUT", b"{not json")[0] == 422
    assert study.tasks(token)[0].answer is None


def test_the_command_says_links_and_ends_by_itself_only_when_told(study):
    command = [
        sys.executable,
        "-m",
        "flowportrait",
        "study",
        "serve",
        str(study.directory),
        "--port",
        "0",
    ]
    # As from a terminal: a shell's background processes ignore the interruption.
    start = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        text=True,
        **start,
    ) as process:
        links = [
            re.fullmatch(
                r"(\w+): http://127.0.0.1:(\d+)(/r/\S+)  \(0 of 3 sets done\)\n",
                process.stdout.readline(),
            )
            for _ in range(2)
        ]
        assert [link[1] for link in links] == ["ann", "bob"]
        process.stdout.readline()
        for _ in range(50):
            try:
                status, _, body = ask(int(links[0][2]), links[0][3])
                break
            except ConnectionError:
                threading.Event().wait(0.1)
        assert status == 200 and b"Rating videos" in body
        through(int(links[0][2]), links[0][3].removeprefix("/r/"), 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert study.raters()[0].done == 3


def test_a_port_in_use_and_a_folder_without_study_are_one_line(study, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.run(["study", "serve", str(study.directory), "--port", port]) == 2
    assert f"--port {port}: cannot listen on this address" in capsys.readouterr().err
    assert cli.run(["study", "serve", str(tmp_path)]) == 2
    assert "contains no study" in capsys.readouterr().err


def test_a_browser_rates_a_set(study, port):
    """Watches, is kept from rating before, ranks with ties of both kinds, and finds its answer
    again.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or pytest.skip("chromium is not installed")
    token = study.raters()[0].token
    flags = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        page, errors = browser.new_page(), []
        page.on(
            "console",
            lambda message: errors.append(message.text) if message.type == "error" else None,
        )
        page.on(
            "request",
            lambda request: errors.append(request.url) if f":{port}/" not in request.url else None,
        )
        page.goto(f"http://127.0.0.1:{port}/r/{token}")
        page.click("#close")
        assert (
            page.locator("fieldset:disabled").count() == 6 and page.locator("#send").is_disabled()
        )
        for letter in "AB":
            page.keyboard.press(letter.lower())
            page.locator(".clip", has=page.locator("h2", has_text=letter)).get_by_text(
                "watched", exact=True
            ).wait_for()
        for grades in page.locator(".clip .grades").all():
            grades.locator("input").first.focus()
            page.keyboard.press("4")
        for grades in page.locator("#places .grades").all():
            grades.locator("input").first.focus()
            page.keyboard.press("1")
        shown = lambda: " ".join(page.locator("#ranking").inner_text().split())  # noqa: E731
        assert shown() == "A = B"
        place_of_b = page.locator("#places .grades").last.locator("input")
        place_of_b.nth(1).check(force=True)
        page.locator(".sign").click()
        assert shown() == "A ≥ B"
        page.keyboard.press("Space")
        assert shown() == "A > B"
        page.keyboard.press("Enter")
        assert (
            shown() == "A ≥ B" and page.locator("#said").inner_text() == "A, at least as good as B"
        )
        page.reload()
        page.locator(".sign").wait_for()
        assert shown() == "A ≥ B"
        page.keyboard.press("Escape")
        page.keyboard.press("Control+Enter")
        page.locator("#number", has_text="Set 2 of 3").wait_for()
        first = study.tasks(token)[0]
        assert [len(group) for group in first.answer.groups] == [1, 1] and first.answer.between == (
            ">=",
        )
        page.click("#back")
        page.locator("#number", has_text="Set 1 of 3").wait_for()
        assert page.locator(".clip .grades :checked").count() == 6 and shown() == "A ≥ B"
        place_of_b.first.check(force=True)
        assert shown() == "A = B"
        page.keyboard.press("Control+Enter")
        page.locator("#number", has_text="Set 2 of 3").wait_for()
        browser.close()
    assert errors == []
    answer = study.tasks(token)[0].answer
    assert len(answer.groups) == 1 and len(answer.groups[0]) == 2
    assert all(set(scores.values()) == {4} for scores in answer.scores.values())


LAYOUT = """
const clips = [...document.querySelectorAll(".clip")].map((clip) => clip.getBoundingClientRect());
return {
  tops: new Set(clips.map((clip) => Math.round(clip.top))).size, number: clips.length,
  height: document.documentElement.scrollHeight, wide: document.documentElement.scrollWidth,
};
"""


@pytest.fixture(scope="module")
def four_versions(tmp_path_factory):
    """A sample of the paper's four versions."""
    folder = tmp_path_factory.mktemp("four")
    sources = {name: folder / name for name in ("original", "sonic", "memo", "echo")}
    for source, clip in zip(sources.values(), CLIPS, strict=False):
        source.mkdir()
        shutil.copy(clip, source / "sample.mp4")
    plan = StudyPlan(num_raters=1, raters_per_sample=1, num_repeats=0, num_training=0, seed=0)
    create(folder / "study", sources, ["ann"], plan, truth="original")
    return Study(folder / "study")


def test_four_videos_stand_in_one_row_and_instructions_stay_closed(four_versions):
    (rater,) = four_versions.raters()
    with raters_pages(four_versions) as port, browser() as page:
        page.emulate(1280, 900)
        page.open(f"http://127.0.0.1:{port}/r/{rater.token}")
        page.until("document.querySelector('#instructions').open")
        assert findings(page) == []
        page.click("#close")
        page.until("document.querySelectorAll('.clip video').length === 4")
        layout = page.run(LAYOUT)
        assert (layout["number"], layout["tops"]) == (4, 1) and layout["wide"] <= 1280
        assert layout["height"] < 2000
        page.open(f"http://127.0.0.1:{port}/r/{rater.token}")
        page.until("document.querySelectorAll('.clip video').length === 4")
        assert not page.run("return document.querySelector('#instructions').open")
        page.click("#help")
        assert page.run("return document.querySelector('#instructions').open")
        page.click("#close")
        assert findings(page) == []
        page.emulate(390, 844, dark=True)
        assert page.run(LAYOUT)["wide"] <= 390 and findings(page) == []

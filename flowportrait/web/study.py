"""The raters' pages of a study (App. A), behind one link for each rater.

    GET  /r/TOKEN              the page
    GET  /r/TOKEN/state        how far the rater is, all tasks, instructions and rubrics
    GET  /r/TOKEN/task/ID      one set: letters, lengths, what was answered before
    GET  /r/TOKEN/media/ITEM   a clip, also in parts
    PUT  /r/TOKEN/task/ID      an answer; 422 with the reason when it breaks a rule, and then
                               nothing is kept

Nothing tells which generator a clip is from: addresses are the ids of the store, which differ for
every task, and media come without a file name, a date or a digest. Whoever has a link can rate, so
links are as good as passwords.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from flowportrait.errors import DataError, StudyRefused
from flowportrait.files import JsonObject
from flowportrait.records import ASPECTS
from flowportrait.study.answers import UNWATCHED_S, RaterAnswer
from flowportrait.study.rubric import INSTRUCTIONS, RUBRICS
from flowportrait.study.store import Study, Task
from flowportrait.web.guard import (
    LOOPBACK,
    address_of,
    body_of,
    guard,
    is_local,
    listen,
    names_of,
    run,
)

STATIC = Path(__file__).parent / "static"
MAX_ANSWER_BYTES = 1 << 20
_STATUS = {"unknown_rater": 404, "unknown_task": 404, "unknown_item": 404}


def study_app(study: Study, hosts: frozenset[str] = LOOPBACK) -> FastAPI:
    """The application; `hosts` are the names it may be asked under, all if empty. Several may serve
    a study.
    """
    app = FastAPI(title="flowportrait study", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=STATIC))

    guard(app, hosts, code="forbidden")

    @app.exception_handler(StudyRefused)
    async def refused(request: Request, error: StudyRefused) -> Response:
        body = {"code": error.code, "message": str(error)}
        if request.url.path.count("/") == 2:
            return _page("no-link.html", 404)
        return JSONResponse(body, _STATUS.get(error.code, 422))

    @app.exception_handler(DataError)
    async def broken(_: Request, error: DataError) -> Response:
        return JSONResponse({"code": "unavailable", "message": str(error)}, 503)

    @app.get("/r/{token}")
    def page(token: str) -> Response:
        study.rater(token)
        return _page("study.html")

    @app.get("/r/{token}/state")
    def state(token: str) -> JsonObject:
        tasks = study.tasks(token)
        return {
            "tasks": [
                {"id": task.id, "training": task.training, "done": task.answer is not None}
                for task in tasks
            ],
            "instructions": INSTRUCTIONS,
            "unwatched_s": UNWATCHED_S,
            "aspects": list(ASPECTS),
            "rubrics": [_rubric(rubric) for rubric in RUBRICS],
        }

    @app.get("/r/{token}/task/{task_id}")
    def task(token: str, task_id: str) -> JsonObject:
        return _shown(study.task(token, task_id))

    @app.get("/r/{token}/media/{item_id}")
    def media(token: str, item_id: str) -> Response:
        return FileResponse(study.media(token, item_id), media_type="video/mp4")

    @app.put("/r/{token}/task/{task_id}")
    async def answer(token: str, task_id: str, request: Request) -> dict[str, str]:
        body = await body_of(request, MAX_ANSWER_BYTES)
        if body is None:
            raise StudyRefused(
                "bad_rating", f"answer: over {MAX_ANSWER_BYTES} bytes; nothing was kept"
            )
        receipt = await run_in_threadpool(study.submit, token, task_id, RaterAnswer.read(body))
        return {"state": receipt.state}

    return app


def _page(name: str, status: int = 200) -> Response:
    return HTMLResponse((STATIC / name).read_text(encoding="utf-8"), status)


def _shown(task: Task) -> JsonObject:
    """A task as the page gets it: nothing else of it is sent."""
    return {
        "id": task.id,
        "number": task.number,
        "total": task.total,
        "training": task.training,
        "items": [
            {"id": item.id, "letter": item.letter, "duration_s": item.duration_s}
            for item in task.items
        ],
        "answer": task.answer.model_dump(mode="json") if task.answer else None,
    }


def _rubric(rubric: Any) -> JsonObject:
    """A rubric as the page wants it."""
    grades = [
        {"score": grade.score, "guideline": grade.guideline, "criteria": grade.criteria}
        for grade in rubric.grades
    ]
    return {"aspect": rubric.aspect, "title": rubric.title, "grades": grades}


def serve(
    directory: Path,
    host: str,
    port: int,
    allowed: Iterable[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Serves a study until interrupted, also under the `allowed` names, after it has said each
    rater's link. Raises ConfigError for a port in use.
    """
    study = Study(directory)
    hosts = names_of(host, allowed)
    listening = listen(host, port)
    for rater in study.raters():
        link = f"{address_of(host, listening)}/r/{rater.token}"
        say(f"{rater.name}: {link}  ({rater.done} of {rater.total} sets done)")
    _say_how(host, say)
    run(study_app(study, hosts), listening)


def _say_how(host: str, say: Callable[[str], None]) -> None:
    """Says what to mind when the study is open to others."""
    if not is_local(host):
        say(
            "warning: links are as good as passwords, and http can be read on the way; put TLS"
            " before it"
        )
    say("Ctrl+C ends; answers are kept as they come")

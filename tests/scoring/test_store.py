"""The answer store and the scores' file: nothing lost, nothing twice, whatever was torn."""

import json

import pytest

from flowportrait.errors import ConfigError, DataError, JudgeRefused
from flowportrait.records import Score, read_jsonl
from flowportrait.scoring.judges.answers import AnswerStore, answer_key
from flowportrait.scoring.judges.backends import Answer, Question, Video, build_backend

OPENAI = {"type": "openai", "model": "m", "base_url": "http://localhost/v1"}


@pytest.fixture
def backend():
    return build_backend(OPENAI)


def test_an_answer_comes_back_and_the_last_one_counts(tmp_path, backend):
    path, question = tmp_path / "new" / "answers.jsonl", Question(("text",))
    store = AnswerStore(path)
    key = store.put(question, backend, Answer(text="first"))
    store.put(question, backend, Answer(text="second"))
    for opened in (store, AnswerStore(path)):
        assert len(opened) == 1 and opened.get(key).text == "second"
    assert store.get("0" * 64) is None


def test_a_torn_line_costs_one_answer_and_no_more(tmp_path, backend):
    path = tmp_path / "answers.jsonl"
    store = AnswerStore(path)
    keys = [store.put(Question((f"{i}",)), backend, Answer(text=f"{i}")) for i in range(3)]
    path.write_bytes(path.read_bytes()[:-40])
    torn = AnswerStore(path)
    assert [key in torn for key in keys] == [True, True, False]
    last = torn.put(Question(("2",)), backend, Answer(text="again"))
    assert last == keys[2] and AnswerStore(path).get(last).text == "again"
    assert [stored.answer.text for stored in AnswerStore(path).all()] == ["0", "1", "again"]


def test_all_that_changes_the_answer_changes_the_key(clip, tmp_path, backend):
    other = tmp_path / "other.mp4"
    other.write_bytes(clip.read_bytes() + b"\0\0\0\x0cfree1234")
    moved = tmp_path / "moved.mp4"
    moved.write_bytes(clip.read_bytes())
    question = Question((Video(clip), "text"))
    different = [
        answer_key(Question((Video(other), "text")), backend),
        answer_key(Question((Video(clip), "text!")), backend),
        answer_key(Question((Video(clip), "text"), repeat=1), backend),
        answer_key(question, build_backend({**OPENAI, "model": "n"})),
        answer_key(question, build_backend({**OPENAI, "temperature": 0.5})),
        answer_key(question, build_backend({**OPENAI, "fps": 12.0})),
        answer_key(question, build_backend({"type": "gemini"})),
    ]
    key = answer_key(question, backend)
    assert len({key, *different}) == 1 + len(different)
    assert key == answer_key(Question((Video(moved), "text"), topic="other"), backend)
    assert key == answer_key(question, build_backend({**OPENAI, "base_url": "http://elsewhere/v1"}))


def test_a_damaged_store_is_named(tmp_path, backend):
    path = tmp_path / "answers.jsonl"
    key = AnswerStore(path).put(Question(("a",)), backend, Answer())
    path.write_text(path.read_text().replace('"schema_version":1', '"schema_version":9', 1))
    with pytest.raises(DataError, match="invalid answer at byte 0"):
        AnswerStore(path).get(key)


def test_nan_is_null_on_disk_and_a_reason_is_due(tmp_path):
    row = Score(
        clip="a", scorer="mas-ma", reason="blocked", parts={"motion": 4, "lip_sync": float("nan")}
    )
    assert json.loads(row.model_dump_json())["value"] is None
    (tmp_path / "s.jsonl").write_text(row.model_dump_json() + "\n")
    (read,) = read_jsonl(tmp_path / "s.jsonl", Score)
    assert read.model_dump_json() == row.model_dump_json()
    for wrong in ({}, {"value": 3, "reason": "why"}):
        with pytest.raises(ValueError, match="either a value or a reason"):
            Score(clip="a", scorer="b", **wrong)


def test_replay_needs_to_know_whose_answers(tmp_path, backend):
    import asyncio

    path, question = tmp_path / "answers.jsonl", Question(("a",))
    with pytest.raises(ConfigError, match="no file"):
        build_backend({"type": "replay", "answers": path})
    AnswerStore(path).put(question, backend, Answer(text="of m", model="m"))
    replay = build_backend({"type": "replay", "answers": path})
    assert replay.model == "m" and asyncio.run(replay.ask(question)).text == "of m"
    with pytest.raises(JudgeRefused, match="no recorded answer"):
        asyncio.run(replay.ask(Question(("b",))))
    AnswerStore(path).put(question, build_backend({**OPENAI, "model": "n"}), Answer(text="of n"))
    with pytest.raises(ConfigError, match="got ''; .* holds m, n"):
        build_backend({"type": "replay", "answers": path})
    replay = build_backend({"type": "replay", "answers": path, "model": "n"})
    assert asyncio.run(replay.ask(question)).text == "of n"

"""`score`, `compare` and `judge-sim` as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flowportrait import cli, registry
from flowportrait.records import ManifestRow, Score, Verdict, read_jsonl, write_jsonl
from flowportrait.scoring import score_row

pytest.importorskip("openai")

ROOT = Path(__file__).parents[2]


class Brightness:
    """A scorer that is no judge, as another package would add it: one class and one line in the
    table.
    """

    name, unit, low, high, better, needs = (
        "brightness",
        "grey levels",
        0.0,
        255.0,
        "higher",
        frozenset({"truth"}),
    )
    fingerprint = "brightness 1"

    from flowportrait.config import Frozen as Config

    def __init__(self, config):
        self.config = config

    def score(self, samples):
        for sample in samples:
            yield score_row(self, sample, float(sample.truth.frames.mean()))


@pytest.fixture
def judged(start_sim, clips, tmp_path, monkeypatch):
    """A folder `clips` with three clips, and `judge.json` that points to a simulated judge."""
    sim = start_sim()
    clips(3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge.json").write_text(json.dumps({"judge": sim.judge("openai")}))
    return sim


SCORE = ["score", "clips", "--scorers", "mas-ma", "-o", "scores.jsonl", "--config", "judge.json"]


def test_score_says_what_it_costs_and_what_came_of_it(judged, capsys):
    assert cli.run([*SCORE, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("mas-ma: 9 calls, about ")
    means, total, report = captured.out.splitlines()
    assert means.startswith("mas-ma: ") and "lip_sync" in means and means.endswith("), 3 scored")
    assert total.startswith("3 scores, 0 of them from before; 9 calls, ") and total.endswith(
        ": scores.jsonl"
    )
    told = json.loads(report)
    (standing,) = told.pop("generators")
    assert told.pop("differences") == [] and standing["mean"]["low"] <= standing["mean"]["high"]
    assert told | {"tokens": 0} == {
        "output": "scores.jsonl",
        "scores": 3,
        "kept": 0,
        "unscored": 0,
        "saturated": [],
        "calls": 9,
        "tokens": 0,
        "usd": None,
        "skipped": {},
    }
    scores = list(read_jsonl("scores.jsonl", Score))
    assert [score.clip for score in scores] == [f"clips/000{i}.mp4" for i in range(3)]
    written = Path("scores.jsonl").read_bytes()
    assert cli.run(SCORE) == 0
    assert "3 scores, 3 of them from before; 0 calls" in capsys.readouterr().out
    assert Path("scores.jsonl").read_bytes() == written and judged.sim.calls == 9


def test_dry_run_makes_no_call_and_no_file(judged, capsys):
    prices = [
        "--set",
        "judge.prices.input_usd_per_million=2",
        "--set",
        "judge.prices.output_usd_per_million=10",
    ]
    assert cli.run([*SCORE, *prices, "--dry-run", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)["plans"]
    assert plan["calls"] == 9 and plan["usd"] == pytest.approx(
        (plan["prompt_tokens"] * 2 + 9000 * 10) / 1e6
    )
    assert judged.sim.calls == 0 and not Path("scores.jsonl").exists()
    assert cli.run(SCORE) == 0
    used = sum(score.tokens for score in read_jsonl("scores.jsonl", Score))
    assert plan["prompt_tokens"] == pytest.approx(used, rel=0.2)


def test_a_clip_that_changed_is_scored_again_and_others_are_kept(judged, capsys):
    assert cli.run(SCORE) == 0
    Path("clips/0001.mp4").write_bytes(Path("clips/0001.mp4").read_bytes() + b"\0\0\0\x0cfree9999")
    assert cli.run([*SCORE[:1], "clips/0001.mp4", *SCORE[2:]]) == 0
    scores = list(read_jsonl("scores.jsonl", Score))
    assert sorted(score.clip for score in scores) == [f"clips/000{i}.mp4" for i in range(3)]
    assert judged.sim.calls == 12


def test_other_settings_do_not_mix_in_one_file(judged, capsys):
    assert cli.run(SCORE) == 0
    assert cli.run([*SCORE, "--set", "judge.backend.temperature=1.0"]) == 2
    assert (
        "holds scores of mas-ma with other settings, model or prompts; give another -o"
        in capsys.readouterr().err
    )


def test_unscored_is_said_and_can_be_tried_again(judged, capsys):
    judged.sim.faults = type(judged.sim.faults).model_validate(
        {"fault": [{"kind": "bad-request", "last": 0}]}
    )
    assert cli.run([*SCORE, "--json"]) == 0
    captured = capsys.readouterr()
    assert "warning: unscored: clips/000" in captured.err and "400" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["unscored"] == 1
    assert cli.run(SCORE) == 0 and judged.sim.calls == 9
    assert cli.run([*SCORE, "--retry-unscored"]) == 0 and judged.sim.calls == 10
    assert all(not score.reason for score in read_jsonl("scores.jsonl", Score))


def test_an_unusable_answer_is_asked_for_anew_when_tried_again(judged, capsys):
    judged.sim.faults = type(judged.sim.faults).model_validate({"fault": [{"kind": "prose"}]})
    command = [
        "score",
        "clips/0000.mp4",
        "--scorers",
        "sas-sa",
        "-o",
        "s.jsonl",
        "--config",
        "judge.json",
    ]
    assert cli.run(command) == 1 and judged.sim.calls == 2
    assert "nothing was scored" in capsys.readouterr().err
    judged.sim.faults = type(judged.sim.faults)()
    Path("s.jsonl").unlink()
    # Read anew, the stored answers are no better.
    assert cli.run(command) == 1 and judged.sim.calls == 2
    assert cli.run([*command, "--retry-unscored"]) == 0 and judged.sim.calls == 3
    assert [score.reason for score in read_jsonl("s.jsonl", Score)] == [""]


def test_a_store_that_cannot_be_written_is_one_line(judged, capsys):
    assert cli.run([*SCORE, "--answers", "judge.json/answers.jsonl"]) == 2
    assert "judge.json/answers.jsonl: cannot be written" in capsys.readouterr().err


def test_answers_are_replayed_without_a_judge(judged, capsys):
    assert cli.run(SCORE) == 0
    first = [score.value for score in read_jsonl("scores.jsonl", Score)]
    judged.sim.faults = type(judged.sim.faults).model_validate(
        {"fault": [{"kind": "server-error"}]}
    )
    replay = ["--set", "judge.backend.type=replay", "--set", "judge.backend.answers=answers.jsonl"]
    command = ["score", "clips", "--scorers", "mas-ma", "-o", "again.jsonl", *replay]
    assert cli.run(command) == 0
    again = list(read_jsonl("again.jsonl", Score))
    assert [score.value for score in again] == first and {score.model for score in again} == {"sim"}
    assert judged.sim.calls == 9


def test_manifests_and_scorers_that_are_no_judges(judged, capsys, monkeypatch):
    monkeypatch.setitem(registry.SCORERS.builtins, "brightness", f"{__name__}:Brightness")
    row = ManifestRow(
        id="one", video="clips/0000.mp4", num_frames=12, fps=24, size_px=32, sample_rate_hz=16000
    )
    write_jsonl(
        "manifest.jsonl", [row, row.model_copy(update={"id": "gone", "video": "clips/9.mp4"})]
    )
    command = [
        "score",
        "manifest.jsonl",
        "--scorers",
        "brightness,mas-ma",
        "-o",
        "s.jsonl",
        "--config",
        "judge.json",
    ]
    assert cli.run([*command, "--truth", "."]) == 0
    by_key = {(score.clip, score.scorer): score for score in read_jsonl("s.jsonl", Score)}
    assert (
        by_key["one", "brightness"].value == pytest.approx(55, abs=3)
        and by_key["one", "mas-ma"].reason == ""
    )
    assert (
        "no truth" in by_key["gone", "brightness"].reason
        and "no such file" in by_key["gone", "mas-ma"].reason
    )


def test_compare(judged, capsys):
    command = [
        "compare",
        "clips/0000.mp4",
        "clips/0001.mp4",
        "-o",
        "v.jsonl",
        "--config",
        "judge.json",
    ]
    for system in ("direct", "icl", "ma-comp"):
        assert cli.run([*command, "--system", system, "--json"]) == 0
    assert judged.sim.calls == 1 + 1 + 4
    lines = capsys.readouterr().out.splitlines()
    verdicts = list(read_jsonl("v.jsonl", Verdict))
    assert [verdict.system for verdict in verdicts] == ["direct-comp", "icl-comp", "ma-comp"]
    assert [json.loads(line) for line in lines[1::2]] == [
        verdict.model_dump(mode="json") for verdict in verdicts
    ]
    winner = {"a": "clips/0000.mp4", "b": "clips/0001.mp4"}[verdicts[0].winner]
    assert lines[0] == f"direct-comp: {winner} is better"


def test_compare_folders(judged, capsys):
    """Every pair of the same name; what has no counterpart is named, and a second run asks for
    nothing.
    """
    Path("clips").rename("ours")
    Path("theirs").mkdir()
    for name in ("0000", "0001", "0007"):
        clip = Path("ours/0002.mp4").read_bytes() + b"\0\0\0\x0cfree" + name.encode()
        Path(f"theirs/{name}.mp4").write_bytes(clip)
    command = [
        "compare",
        "ours",
        "theirs",
        "--system",
        "direct",
        "--config",
        "judge.json",
        "--json",
    ]
    assert cli.run([*command, "--answers", "a.jsonl"]) == 0 and judged.sim.calls == 2
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2] == "2 verdicts; -o FILE.jsonl would keep them"
    assert json.loads(printed[-1])["output"] is None and not Path("v.jsonl").exists()
    command += ["-o", "v.jsonl", "--answers", "b.jsonl"]
    assert cli.run(command) == 0 and judged.sim.calls == 4
    captured = capsys.readouterr()
    assert "warning: 0002: in only one of ours and theirs; not compared" in captured.err
    verdicts = list(read_jsonl("v.jsonl", Verdict))
    assert [(v.a, v.b) for v in verdicts] == [
        (f"ours/000{i}.mp4", f"theirs/000{i}.mp4") for i in range(2)
    ]
    said = json.loads(captured.out.splitlines()[-1])
    assert said["wins"] == {
        side: sum(v.winner == side for v in verdicts) for side in ("a", "b", "tie")
    }
    assert said["not_compared"] == ["0002", "0007"] and said["unsaid"] == 0 and said["kept"] == 0
    assert (
        f"direct-comp: ours is better in {said['wins']['a']}, theirs in {said['wins']['b']}, 0 ties"
        in captured.out
    )
    before = Path("v.jsonl").read_bytes()
    assert (
        cli.run(command) == 0 and judged.sim.calls == 4 and Path("v.jsonl").read_bytes() == before
    )
    # A clip that has changed is compared again.
    Path("ours/0000.mp4").write_bytes(Path("ours/0000.mp4").read_bytes() + b"\0\0\0\x0cfreenew!")
    assert cli.run(command) == 0 and judged.sim.calls == 5
    assert len(Path("v.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ["clips", "clips/0000.mp4"],
            "clips, clips/0000.mp4: of different kinds; give two videos, two folders",
        ),
        (
            ["clips", "empty"],
            "clips, empty: no video names in common; give folders with the same file names",
        ),
        (["clips", "gone"], "gone: no such file; give two videos, two folders or two manifests"),
    ],
)
def test_what_cannot_be_compared_is_one_line(judged, arguments, words, capsys):
    Path("empty").mkdir()
    assert cli.run(["compare", *arguments, "-o", "v.jsonl", "--config", "judge.json"]) == 2
    assert words in capsys.readouterr().err and judged.sim.calls == 0


def test_no_verdict_is_a_failure(judged, capsys):
    judged.sim.faults = type(judged.sim.faults).model_validate({"fault": [{"kind": "prose"}]})
    command = [
        "compare",
        "clips/0000.mp4",
        "clips/0001.mp4",
        "--answers",
        "a.jsonl",
        "--config",
        "judge.json",
    ]
    assert cli.run([*command, "--system", "direct"]) == 1
    assert "error: no verdict: shown " in capsys.readouterr().err


def test_the_command_starts_a_simulated_judge(tmp_path):
    (tmp_path / "faults.toml").write_text('model = "m"\n[[fault]]\nkind = "overloaded"\nlast = 0\n')
    code = "from flowportrait.cli import main; main()"
    command = [sys.executable, "-c", code, "judge-sim", "--faults", str(tmp_path / "faults.toml")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            import httpx2

            url = server.stdout.readline().strip()
            asked = {
                "model": "m",
                "messages": [{"role": "user", "content": [{"type": "text", "text": "score"}]}],
            }
            statuses = [
                httpx2.post(f"{url}/v1/chat/completions", json=asked).status_code for _ in range(2)
            ]
            assert statuses == [503, 200]
            assert httpx2.get(f"{url}/stats").json()["faults"] == {"overloaded": 1}
        finally:
            server.terminate()


def test_offline_judges_answer_under_their_own_name(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(registry.OFFLINE_JUDGES.builtins, "toy", f"{__name__}:ToyJudge")
    monkeypatch.chdir(tmp_path)
    clips(1)
    toy = ["--set", "judge.backend.type=offline", "--set", "judge.backend.name=toy"]
    assert cli.run(["score", "clips", "--scorers", "mas-ma,sas-sa", "-o", "s.jsonl", *toy]) == 0
    mas_ma, sas_sa = read_jsonl("s.jsonl", Score)
    assert (
        mas_ma.parts == {"lip_sync": 1, "expressiveness": 4, "motion": 5}
        and mas_ma.model == "offline:toy"
    )
    assert "offline:toy rates one clip in one of lip_sync" in sas_sa.reason
    assert not Path("answers.jsonl").exists()


class ToyJudge:
    """Rates without looking; out-of-range values are clipped to the scale."""

    version = "1"

    def rate(self, aspect, clip):
        return {"lip_sync": -3.0, "expressiveness": 4.4, "motion": 5.2}[aspect]

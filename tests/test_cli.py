"""The command: what it prints, its exit codes, and the fast start."""

import json
import shutil
import subprocess
import sys
import time
import wave
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import flowportrait
from flowportrait import cli, generate, media, needs, registry
from flowportrait.cli import shared
from flowportrait.codecs.liveliness import Strengths
from flowportrait.pretrained import WEIGHTS


@dataclass
class FakeResult:
    """What `generate` gives, without a network."""

    shot: SimpleNamespace
    evaluations: int = 4
    evaluations_saved: int = 0
    model: str = "tiny"
    device: str = "cpu"
    num_frames: int = 24
    fps: float = 24.0
    size_px: int = 64
    warnings: tuple[str, ...] = ("portrait: 2 faces found; the largest is used",)
    sound: media.Sound = field(
        default_factory=lambda: media.Sound(np.zeros(16_000, np.float32), 16_000)
    )

    @property
    def video_s(self) -> float:
        return self.num_frames / self.fps

    def save(self, path):
        path.write_bytes(b"a video")
        return path


class FakePipeline:
    """Counts evaluations as the real one does."""

    def generate(self, portrait, audio, *, evaluations, guidance, seed, crop, progress, **options):
        assert portrait.shape == (32, 32, 3) and audio.sample_rate == 16000
        for done in range(1, 5):
            progress(done, 4)
        shown = SimpleNamespace(frame="whole")
        strengths = Strengths(head=options["head"], lips=options["lips"], eyes=options["eyes"])
        shot = SimpleNamespace(
            seed=seed,
            guidance=guidance,
            crop=crop,
            size=options["size"],
            composite=shown,
            strengths=strengths,
            pipeline=SimpleNamespace(quantization=None),
            cache=SimpleNamespace(threshold=0.0),
        )
        return FakeResult(shot, evaluations=evaluations or 4)


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    Image.new("RGB", (32, 32)).save(tmp_path / "me.png")
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.zeros(16000, "<i2").tobytes())
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "config.json").write_text("{}")
    monkeypatch.setattr(registry, "MODELS_DIR", tmp_path / "models")
    monkeypatch.setattr(generate, "load", lambda model, device: FakePipeline())
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMAND = ["generate", "me.png", "speech.wav", "-o", "out.mp4"]


def test_generate_says_how_long_it_took(inputs, capsys):
    assert cli.run(COMMAND) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("1.0 s of video in ") and captured.out.endswith("): out.mp4\n")
    assert "(real-time factor " in captured.out
    assert captured.err == "warning: portrait: 2 faces found; the largest is used\n"
    assert (inputs / "out.mp4").exists()


def test_json_is_the_last_line(inputs, capsys):
    assert (
        cli.run([*COMMAND, "--json", "--seed", "5", "--evaluations", "7", "--guidance", "1.5"]) == 0
    )
    info = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (info["seed"], info["evaluations"], info["guidance"], info["output"]) == (
        5,
        7,
        1.5,
        "out.mp4",
    )
    assert info["video_s"] == 1.0 and info["flowportrait"] == flowportrait.__version__
    assert info["real_time_factor"] == pytest.approx(info["computing_s"] / info["video_s"])


def test_interruption_is_one_line(inputs, monkeypatch, capsys):
    def interrupted(model, device):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "load", interrupted)
    assert cli.run(COMMAND) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_plain_progress_names_the_time_left(monkeypatch, capsys):
    now_s = iter([0.0, 6.0, 8.0, 12.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now_s))
    report = shared._plain_progress("generating")
    for done in (1, 2, 3):
        report(done, 4)
    # One of four says nothing yet: what came before it may have been loading. Then two in 6 s, one
    # is left.
    assert capsys.readouterr().err == "generating: 25%, 6 s so far\ngenerating: 75%, 3 s left\n"


def test_what_was_done_before_is_no_pace(monkeypatch, capsys):
    clock_s = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock_s[0])
    report = shared._plain_progress("scoring")
    report(900, 1000)
    for done in range(901, 1000):
        clock_s[0] += 7.0
        report(done, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "scoring: 90%, 7 s so far" and lines[10] == "scoring: 91%, 623 s left"
    assert lines[-1] == "scoring: 100%, 7 s left"


def test_long_silence_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(shared, "_FIRST_BEAT_S", 0.05)
    with shared.progress_bar("scoring", beats=True) as report:
        time.sleep(0.12)
        report(0, 3)
        time.sleep(0.3)
        report(3, 3)
        told = capsys.readouterr().err
        time.sleep(0.3)
    assert told.startswith("scoring: 0 s so far\n") and "scoring: 0 of 3, 0 s so far" in told
    assert "of 3" not in capsys.readouterr().err
    with shared.progress_bar("generating") as report:
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "what", ["models", "codecs", "encoders", "detectors", "recipes", "systems", "backends"]
)
def test_list(what, capsys):
    assert cli.run(["list", what, "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == [line.split()[0] for line in lines] == registry.names_of(what)
    assert all(len(line.split(None, 1)) == 2 for line in lines), "each says what it is"


@pytest.mark.parametrize("what", ["scorers", "sets"])
def test_lists_of_scorers_say_what_their_numbers_mean(what, capsys):
    assert cli.run(["list", what, "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    declared = json.loads(last)
    assert list(declared) == [line.split()[0] for line in lines] == registry.names_of(what)
    if what == "scorers":
        psnr = {"unit": "dB", "low": 0.0, "high": None, "better": "higher", "needs": ["truth"]}
        assert declared["psnr"] == psnr
        (line,) = [line for line in lines if line.startswith("ssim ")]
        assert line.split(None, 1)[1] == "-1 to 1; higher is better; needs truth"


def test_doctor_reports_every_part(capsys):
    assert cli.run(["doctor", "--json"]) == 0
    printed = capsys.readouterr().out
    checks = {}
    for check in json.loads(printed.splitlines()[-1]):
        checks.setdefault(check["section"], {})[check["name"]] = check
    assert list(checks) == ["machine", "commands", "scorers", "extras", "weights"]
    assert {"python", "torch", "threads", "matmul", "video"} <= checks["machine"].keys()
    assert all(check["state"] == "ok" for check in checks["machine"].values())
    assert checks["commands"]["generate"]["state"] == "ok"
    assert set(checks["weights"]) == set(WEIGHTS) and set(checks["extras"]) == set(needs.EXTRAS)
    assert all(part in printed for part in ("\nCommands\n", "\nWeights\n"))


def test_doctor_sees_damaged_weights(tmp_path, monkeypatch, capsys):
    shutil.copytree(registry.MODELS_DIR / "tiny", tmp_path / "tiny")
    monkeypatch.setattr(registry, "MODELS_DIR", tmp_path)
    weights = tmp_path / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert cli.run(["doctor"]) == 1
    assert "broken  model tiny" in (printed := capsys.readouterr().out)
    assert "model.safetensors: does not match its sha256" in printed
    weights.unlink()
    assert cli.run(["doctor"]) == 1 and "model.safetensors: missing" in capsys.readouterr().out


def test_doctor_says_what_to_type(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(needs, "has", lambda package: package != "fastapi")
    monkeypatch.setenv("FLOWPORTRAIT_WEIGHTS", str(tmp_path))
    file = WEIGHTS["alex"].file
    (tmp_path / file).write_bytes(b"another")
    assert cli.run(["doctor"]) == 0
    lines = {line[8:35].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert lines["serve, study serve"].startswith("missing")
    assert lines["serve, study serve"].endswith("fastapi: flowportrait doctor --fix web")
    assert "--set speaker.network=none" in lines["prepare"] and "ok" not in lines["prepare"][:8]
    assert "another file, whose sha256 should be 7be5be79" in lines["alex"]
    assert f"put it at {tmp_path / WEIGHTS['syncnet'].file}" in lines["syncnet"]


def test_doctor_installs_what_is_missing(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(needs, "has", lambda package: package not in ("fastapi", "openai"))
    monkeypatch.setattr(
        subprocess, "run", lambda words: asked.append(words) or SimpleNamespace(returncode=0)
    )
    assert cli.run(["doctor", "--fix", "web"]) == 0
    assert asked[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert [word.split(">")[0] for word in asked[0][4:]] == ["fastapi"]
    assert "installed: fastapi" in capsys.readouterr().out
    assert cli.run(["doctor", "--fix", "webb"]) == 2
    assert "unknown extra 'webb'; did you mean 'web'?" in capsys.readouterr().err
    assert cli.run(["doctor", "web"]) == 2 and "doctor --fix web" in capsys.readouterr().err
    monkeypatch.setattr(subprocess, "run", lambda words: SimpleNamespace(returncode=1))
    assert cli.run(["doctor", "--fix"]) == 1
    assert "pip could not install fastapi" in capsys.readouterr().err


def test_version_and_help(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"flowportrait {flowportrait.__version__}\n"
    assert cli.run([]) == 0
    assert "generate" in capsys.readouterr().out


def test_public_names():
    assert flowportrait.__all__ == sorted(flowportrait.__all__)
    assert flowportrait.load is generate.load
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        flowportrait.lode  # noqa: B018

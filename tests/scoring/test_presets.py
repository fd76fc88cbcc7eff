"""Judges by name: every preset is asked in the dialect that it is for, and two judges can be laid
side by side.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from test_judges import score_one, system_of

from flowportrait import cli
from flowportrait.errors import ConfigError, JudgeError
from flowportrait.records import ASPECTS, Score, write_jsonl
from flowportrait.scoring.judges.asking import JudgeConfig
from flowportrait.scoring.judges.backends import build_backend
from flowportrait.scoring.judges.moving import match
from flowportrait.scoring.judges.presets import backend_of, load_preset, preset_names
from flowportrait.scoring.judges.prompts import load_prompt, prompt_names

pytest.importorskip("openai")
types = pytest.importorskip("google.genai.types")


def kind_of(name):
    return load_preset(name).backend["type"]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_hears_and_sees_in_its_dialect(name, start_sim, clip, tmp_path):
    """The canary passes: tokens fall without sound, without motion and, where a rate is sent, at
    one frame a second.
    """
    sim = start_sim(dialect="llama.cpp" if name == "llama.cpp" else "vllm")
    settings = sim.judge(kind_of(name), check="tokens") | {"preset": name}
    given = {key: settings["backend"][key] for key in ("base_url",)}
    settings["backend"] = given | ({"model": "mine"} if name == "llama.cpp" else {})
    score = score_one("sas-sa", settings, clip, tmp_path)
    assert score.reason == "" and score.model == (load_preset(name).backend.get("model") or "mine")
    assert sim.sim.calls == 1 + (3 if name == "llama.cpp" else 4)
    preset = load_preset(name)
    assert preset.about and "2026" in preset.source and "not against" in preset.checked


def test_no_preset_sends_what_its_server_does_not_know(start_sim, clip, tmp_path):
    for name, fields in (
        ("qwen3-omni", {"media_io_kwargs", "mm_processor_kwargs", "logprobs", "top_logprobs"}),
        ("gemma-4-12b", {"media_io_kwargs", "logprobs", "top_logprobs"}),
        ("minicpm-o", {"media_io_kwargs", "logprobs", "top_logprobs", "stop_token_ids"}),
        ("llama.cpp", set()),
    ):
        sim = start_sim(dialect="llama.cpp" if name == "llama.cpp" else "vllm")
        settings = sim.judge("openai") | {"preset": name}
        settings["backend"] = {"base_url": f"{sim.url}/v1"} | (
            {"model": "mine"} if name == "llama.cpp" else {}
        )
        assert score_one("sas-sa", settings, clip, tmp_path / name).reason == ""
        sent = sim.sim.last_request
        assert sent.keys() - {"model", "messages", "max_tokens", "temperature"} == fields
        kinds = [part["type"] for part in sent["messages"][0]["content"]]
        assert kinds == [
            "input_video" if name == "llama.cpp" else "video_url",
            "input_audio",
            "text",
        ]


def test_a_server_refuses_the_parts_of_another_dialect(start_sim, clip, tmp_path):
    sim = start_sim(dialect="llama.cpp")
    score = score_one("sas-sa", sim.judge("openai"), clip, tmp_path)
    assert "400 unsupported content[].type: video_url" in score.reason
    deaf = sim.judge(
        "openai", check="tokens", backend={"video_part": "input_video", "sound": "in-video"}
    )
    with pytest.raises(JudgeError, match="does not hear"):
        score_one("sas-sa", deaf, clip, tmp_path / "deaf")


def test_thinking_levels_are_sent_as_the_sdk_knows_them(start_sim, clip, tmp_path):
    levels = build_backend({"type": "gemini"}).Config.model_fields["thinking_level"].annotation
    names = {name for one in levels.__args__ for name in getattr(one, "__args__", ())}
    assert names == {level.value for level in types.ThinkingLevel} - {"THINKING_LEVEL_UNSPECIFIED"}
    sim = start_sim()
    settings = sim.judge("gemini", backend={"model": "gemini-3.8-flash", "thinking_level": "LOW"})
    assert score_one("sas-sa", settings, clip, tmp_path).reason == ""
    sent = sim.sim.last_request["generationConfig"]
    assert sent["thinkingConfig"] == {"includeThoughts": True, "thinkingLevel": "LOW"}
    # Deprecated from 3.6 on: not sent unless it is asked for.
    assert not sent.keys() & {"temperature", "topP", "topK"}
    asked = sim.judge(
        "gemini", backend={"model": "gemini-3.8-flash", "temperature": 0.5, "top_k": 3}
    )
    assert score_one("sas-sa", asked, clip, tmp_path / "asked").reason == ""
    sent = sim.sim.last_request["generationConfig"]
    assert (sent["temperature"], sent["topK"]) == (0.5, 3) and "thinkingConfig" not in sent


def test_the_papers_judge_is_asked_as_before(start_sim, clip, tmp_path):
    """Its answers in stores that were written before are found again: the settings that name them
    are the same.
    """
    assert build_backend({"type": "gemini"}).identity() == {
        "type": "gemini",
        "version": 1,
        "model": "gemini-2.5-pro",
        "fps": 24.0,
        "resolution": "medium",
        "temperature": 0.0,
        "seed": None,
        "max_output_tokens": 16384,
        "thinking_budget": 4096,
        "safety": "off",
        "logprobs": False,
    }
    assert (
        build_backend(backend_of("gemini-2.5-pro", {})).identity() == build_backend({}).identity()
    )
    plain = {"type": "openai", "model": "m", "base_url": "http://x/v1"}
    assert not build_backend(plain).identity().keys() & {"video_part", "processor_fps"}
    assert build_backend(plain | {"processor_fps": False}).identity()["processor_fps"] is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"preset": "gemini-flsh"},
            "no 'gemini-flsh', and no such .toml file; did you mean 'gemini-flash'",
        ),
        (
            {"preset": "gemini-pro", "backend": {"type": "openai"}},
            "got 'openai', but the preset 'gemini-pro' has type",
        ),
        (
            {"backend": {"thinking_level": "LOW", "thinking_budget": 9}},
            "they exclude each other; unset one",
        ),
        ({"preset": "llama.cpp"}, "judge.backend.model: missing"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_sent(settings, message, tmp_path):
    with pytest.raises(ConfigError) as raised:
        system_of("sas-sa", settings, tmp_path)
    assert message in str(raised.value)


def test_a_preset_of_ones_own_and_settings_over_it(tmp_path):
    own = tmp_path / "house.toml"
    head = 'about = "ours"\nsource = "us"\nchecked = "here"\n'
    own.write_text(head + '[backend]\ntype = "gemini"\nmodel = "gemini-9-pro"\n')
    system = system_of("sas-sa", {"preset": str(own), "backend": {"fps": 12}}, tmp_path)
    assert system.judge.backend.model == "gemini-9-pro"
    assert system.judge.backend.fps == 12 and system.judge.backend.config.temperature is None
    assert (
        JudgeConfig().backend == {}
        and system_of("sas-sa", {}, tmp_path).judge.backend.model == "gemini-2.5-pro"
    )


def test_a_replaced_model_is_told_with_the_way_out(start_sim, clips, tmp_path):
    from flowportrait.clips import find_samples

    sim = start_sim(model="gemini-3.8-flash")
    system = system_of("sas-sa", sim.judge("gemini", limits={"in_flight": 1}), tmp_path)
    with pytest.raises(JudgeError) as raised:
        list(system.score(find_samples([clips(4)])))
    told = str(raised.value)
    assert "'gemini-3.8-flash' answered instead of 'gemini-2.5-pro'" in told and "\n" not in told
    assert (
        "--set judge.backend.model=gemini-3.8-flash" in told
        and "accept_models" in told
        and "judges agree" in told
    )


# -------------------------------------------------------------------------------------------------
# commands


def test_prompts_are_copied_and_then_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["judges", "prompts", "--copy", "mine"]) == 0
    assert sorted(path.stem for path in Path("mine").iterdir()) == prompt_names()
    for name in prompt_names():
        assert load_prompt(name, Path("mine")) == load_prompt(name)
    assert "judge.prompts=mine" in capsys.readouterr().out
    Path("mine/motion.md").write_text("my own words")
    assert cli.run(["judges", "prompts", "--copy", "mine"]) == 2
    assert "already exists; give an empty folder" in capsys.readouterr().err
    assert Path("mine/motion.md").read_text() == "my own words"
    assert cli.run(["judges", "prompts"]) == 0
    assert "lip_sync: version 1, after Table 9" in capsys.readouterr().out


def test_presets_are_listed(capsys):
    assert cli.run(["judges", "presets", "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == len(json.loads(last)) == len(preset_names())
    assert cli.run(["judges", "presets", "gemini-flash"]) == 0
    out = capsys.readouterr().out
    assert (
        'thinking_level = "MEDIUM"' in out
        and "temperature is not sent" in out
        and "checked: " in out
    )


def judged(shift, noise, seed, reason_at=None):
    """Scores of 60 clips of 20 samples: a quality from 1 to 5 with an offset and noise."""
    rng = np.random.default_rng(seed)
    quality = np.random.default_rng(0).integers(1, 6, 60)
    values = np.clip(quality + shift + rng.integers(-noise, noise + 1, 60), 1, 5)
    return [
        Score(
            clip=f"{'abc'[k // 20]}/s{k % 20}.mp4",
            scorer="mas-ma",
            sha256=f"{k}",
            model=f"model {seed}",
            value=float("nan") if k == reason_at else float(value),
            reason="refused" if k == reason_at else "",
            parts={} if k == reason_at else dict.fromkeys(ASPECTS, float(value)),
        )
        for k, value in enumerate(values)
    ]


def test_two_judges_on_the_same_clips(tmp_path, capsys):
    old, new = judged(0, 0, 1), judged(-1, 1, 2, reason_at=5)
    write_jsonl(tmp_path / "old.jsonl", old)
    write_jsonl(tmp_path / "new.jsonl", new)
    files = [str(tmp_path / "old.jsonl"), f"omni={tmp_path / 'new.jsonl'}"]
    assert cli.run(["judges", "agree", *files, "-o", str(tmp_path / "moved.json"), "--json"]) == 0
    out = capsys.readouterr().out
    assert "old: model 1; new: omni" in out and "1 clips that only the old one scored" in out
    record = json.loads((tmp_path / "moved.json").read_text())
    assert record == json.loads(out.splitlines()[-1])
    by_part = {one["part"]: one for one in record["matches"]}
    assert by_part.keys() == {"", *ASPECTS}
    whole = by_part[""]
    both = [(a.value, b.value) for a, b in zip(old, new, strict=True) if not b.reason]
    offset = np.mean([b - a for a, b in both])
    assert (
        whole["clips"] == 59
        and whole["samples"] == 20
        and whole["offset"]["value"] == pytest.approx(offset)
    )
    assert whole["offset"]["low"] < offset < whole["offset"]["high"] < 0
    assert whole["same"]["value"] == pytest.approx(np.mean([a == b for a, b in both]))
    assert (
        0.5 < whole["spearman"]["value"] < 1
        and whole["kappa"]["value"] < whole["spearman"]["value"]
    )
    same = match(old, old)[0]
    assert (same.offset.value, same.same.value, same.spearman.value) == (0, 1, 1)
    assert cli.run(["judges", "agree", files[0], str(tmp_path / "none.jsonl")]) == 2

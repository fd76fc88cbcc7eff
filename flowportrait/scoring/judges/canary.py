"""Whether a judge hears and sees. Several servers drop the sound of a video, or look at one frame a
second, silently.

Four short questions about a shipped portrait and its speech: as it is, without sound, as a single
frame, and at one frame a second. What the server counts as tokens must fall each time; it cannot
judge what it was not given.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowportrait import media
from flowportrait.errors import JudgeError, JudgeRefused, JudgeUnavailable
from flowportrait.registry import SAMPLES_DIR
from flowportrait.scoring.judges.asking import Judge, all_of
from flowportrait.scoring.judges.backends import Answer, Question, Video
from flowportrait.scoring.judges.prompts import load_prompt

CANARY_S = 2.0
CANARY_FPS = 24
CANARY_SIDE_PX = 128


@dataclass(frozen=True)
class Canary:
    """The same two seconds of video three times."""

    whole: Video
    silent: Video
    still: Video


async def check_senses(judge: Judge) -> None:
    """Raises JudgeError when the judge cannot be shown to hear the sound and see the frames."""
    if judge.checked or judge.config.check == "none" or not judge.backend.counts_tokens:
        return
    folder = Path(tempfile.mkdtemp(prefix="flowportrait-canary-"))
    try:
        canary = make_canary(folder)
        text = load_prompt("canary", judge.config.prompts).text
        questions = {
            "whole": Question((canary.whole, text), topic="canary"),
            "silent": Question((canary.silent, text), topic="canary"),
            "still": Question((canary.still, text), topic="canary"),
        }
        if judge.backend.fps is not None and judge.backend.fps > 1:
            questions["slow"] = Question((canary.whole, text), topic="canary", fps=1.0)
        answers = dict(
            zip(questions, await all_of(map(judge.answer, questions.values())), strict=True)
        )
    except (JudgeUnavailable, JudgeRefused) as error:
        raise JudgeError(
            f"judge: the check of its sound and video input failed: {error}"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    problem = _problem(answers)
    if problem:
        raise JudgeError(
            f"judge: {judge.backend.model} {problem}; see docs/judges.md about sending sound and"
            " frames, or skip the check with judge.check = 'none'"
        )
    judge.hears_by_count = bool(answers["whole"].usage.audio)
    judge.checked = True


def _problem(answers: dict[str, Answer]) -> str:
    """The problem that the counts of the four answers show; empty when all is well."""
    counts = {name: answer.usage.prompt for name, answer in answers.items()}
    if None in counts.values() or not counts["whole"]:
        return "does not count tokens, so it cannot be shown to hear and see"
    if counts["whole"] <= counts["silent"]:
        return f"does not hear: {counts['whole']} tokens with sound and {counts['silent']} without"
    if counts["whole"] <= counts["still"]:
        return (
            f"does not see motion: {counts['whole']} tokens for {CANARY_S:g} s and"
            f" {counts['still']} for one frame"
        )
    if "slow" in counts and counts["whole"] <= counts["slow"]:
        return (
            f"looks at one frame a second whatever is asked for ({counts['whole']} tokens either"
            " way)"
        )
    return ""


def make_canary(folder: Path) -> Canary:
    """The shipped portrait, moving, with the shipped speech; the same without sound, and with its
    first frame only.
    """
    portrait = media.read_portrait(SAMPLES_DIR / "portrait.png")
    speech = media.read_audio(SAMPLES_DIR / "speech.wav")
    samples = speech.samples[: round(CANARY_S * speech.sample_rate)]
    side = min(portrait.shape[:2]) * 3 // 4
    frames = []
    for index in range(round(CANARY_S * CANARY_FPS)):
        cut = portrait[index : index + side, index : index + side]
        nearest = np.linspace(0, len(cut) - 1, CANARY_SIDE_PX).astype(int)
        frames.append(np.ascontiguousarray(cut[nearest][:, nearest]))
    whole = folder / "whole.mp4"
    media.write_video(whole, frames, CANARY_FPS, samples, speech.sample_rate, {})
    media.remux(whole, folder / "silent.mp4", sound=False)
    media.remux(whole, folder / "still.mp4", num_frames=1)
    return Canary(*(Video(folder / name) for name in ("whole.mp4", "silent.mp4", "still.mp4")))

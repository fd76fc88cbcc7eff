"""Instructions of raters: the rubrics of the paper's Tables 6 to 8, in its words, as they are
quoted data.
"""

from dataclasses import dataclass

from flowportrait.records import Aspect


@dataclass(frozen=True)
class Grade:
    """One score of a rubric."""

    score: int
    guideline: str
    criteria: dict[str, str]
    """What to look at, and how it looks at this score."""


@dataclass(frozen=True)
class Rubric:
    """The five grades of one aspect, best first."""

    aspect: Aspect
    title: str
    table: int
    """Its number in the paper."""
    grades: tuple[Grade, ...]


INSTRUCTIONS = (
    "Watch each video in its entirety, with sound, before you rate it. Rate every video for each"
    " aspect from 1 (worst) to 5 (best). Then order the videos from best to worst; videos of"
    " comparable quality may be tied, and a video that you cannot place may be left out of the"
    " order."
)
"""Appendix A's instructions, in our words."""

RUBRICS: tuple[Rubric, ...] = (
    Rubric(
        "lip_sync",
        "lip-sync quality",
        6,
        (
            Grade(
                5,
                "Excellent",
                {
                    "Precision": "Mouth shapes perfectly match all spoken phonemes.",
                    "Timing": (
                        "Lip movements are perfectly synchronized with the audio, with no"
                        " noticeable delay or lead."
                    ),
                    "Naturalness": (
                        "Movements are fluid and human-like, with no warping or visual artifacts."
                    ),
                },
            ),
            Grade(
                4,
                "Good",
                {
                    "Precision": (
                        "Mouth shapes are correct for the vast majority of sounds, with only subtle"
                        " inaccuracies."
                    ),
                    "Timing": (
                        "Synchronization is excellent, with only an almost imperceptible lag or"
                        " lead."
                    ),
                    "Naturalness": "Movements look natural but may lack fine-grained nuances.",
                },
            ),
            Grade(
                3,
                "Fair",
                {
                    "Precision": "Mouth shapes are generally correct but imprecise or simplified.",
                    "Timing": "A slight but consistent delay or lead is noticeable.",
                    "Naturalness": (
                        "Movements appear somewhat robotic or overly smooth; minor blurring"
                        " artifacts may be present."
                    ),
                },
            ),
            Grade(
                2,
                "Poor",
                {
                    "Precision": "Mouth shapes are frequently incorrect.",
                    "Timing": "Audio-visual synchronization is clearly off and distracting.",
                    "Naturalness": (
                        "Movements are jerky or exhibit unnatural “flapping,” with obvious warping."
                    ),
                },
            ),
            Grade(
                1,
                "Bad",
                {
                    "Precision": "Lip movements have little to no correlation with speech.",
                    "Timing": "Audio and lip movements are severely out of sync.",
                    "Naturalness": (
                        "Mouth motion is highly distorted, nonsensical, or completely static."
                    ),
                },
            ),
        ),
    ),
    Rubric(
        "expressiveness",
        "facial expressiveness",
        7,
        (
            Grade(
                5,
                "Excellent",
                {
                    "Emotional Match": (
                        "Facial expressions perfectly reflect the emotional tone of the audio."
                    ),
                    "Realism": (
                        "Includes natural micro-expressions and appears fully human and genuine."
                    ),
                },
            ),
            Grade(
                4,
                "Good",
                {
                    "Emotional Match": (
                        "Expressions largely match the audio’s emotion, with minor inconsistencies."
                    ),
                    "Realism": "Looks realistic but may feel slightly acted or less nuanced.",
                },
            ),
            Grade(
                3,
                "Fair",
                {
                    "Emotional Match": (
                        "Emotion is generally appropriate but muted, delayed, or under-specified."
                    ),
                    "Realism": "The face appears mildly uncanny or artificial.",
                },
            ),
            Grade(
                2,
                "Poor",
                {
                    "Emotional Match": (
                        "Expression mismatches the audio emotion or remains stuck in a neutral"
                        " state."
                    ),
                    "Realism": "Expressions look highly unnatural and artificial.",
                },
            ),
            Grade(
                1,
                "Bad",
                {
                    "Emotional Match": (
                        "Expression is completely incorrect, nonsensical, or emotionless."
                    ),
                    "Realism": "Face resembles a static mask or mannequin.",
                },
            ),
        ),
    ),
    Rubric(
        "motion",
        "video smoothness and motion quality",
        8,
        (
            Grade(
                5,
                "Excellent",
                {
                    "Head Movement": "Smooth, fluid, and purposeful.",
                    "Subtle Motion": (
                        "Natural blinks, head tilts, and minor posture shifts are present."
                    ),
                    "Consistency": "Motion is coherent and human-like throughout.",
                },
            ),
            Grade(
                4,
                "Good",
                {
                    "Head Movement": "Smooth and stable, but somewhat simple or repetitive.",
                    "Subtle Motion": (
                        "Blinking appears natural; other subtle motions may be limited."
                    ),
                    "Consistency": "Motion remains plausible with no major artifacts.",
                },
            ),
            Grade(
                3,
                "Fair",
                {
                    "Head Movement": "Slightly stiff, jerky, or floaty.",
                    "Subtle Motion": "Blinking is unnatural in cadence or absent for periods.",
                    "Consistency": "Occasional robotic or locked head poses occur.",
                },
            ),
            Grade(
                2,
                "Poor",
                {
                    "Head Movement": "Robotic, jittery, or laggy.",
                    "Subtle Motion": "No natural blinks or fine motions are observed.",
                    "Consistency": "Motion is highly unnatural and distracting.",
                },
            ),
            Grade(
                1,
                "Bad",
                {
                    "Head Movement": "Head is completely static.",
                    "Subtle Motion": "No blinking or facial motion at all.",
                    "Consistency": "The lack of motion is constant and clearly artificial.",
                },
            ),
        ),
    ),
)
"""In the paper's order of aspects."""

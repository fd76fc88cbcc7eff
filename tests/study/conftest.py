"""A small study from the shipped clips."""

import shutil
from pathlib import Path

import pytest
from simulated_raters import QUALITY

from flowportrait import media
from flowportrait.study.build import create
from flowportrait.study.tasks import StudyPlan

SAMPLES = sorted((Path(media.__file__).parent / "samples" / "world").glob("*.mp4"))
DEGRADED = {"mild": ("blur", 2.0), "poor": ("blur", 6.0)}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """original/, mild/ and poor/ with six clips each."""
    pytest.importorskip("scipy")  # of the extra 'world'
    from flowportrait.world.degrade import ClipInMemory, degrade

    root = tmp_path_factory.mktemp("versions")
    for name in QUALITY:
        (root / name).mkdir()
    for number, source in enumerate(SAMPLES[:6]):
        target = f"clip{number}.mp4"
        shutil.copy(source, root / "original" / target)
        clip = media.Clip(source)
        footage = ClipInMemory(clip.frames, clip.sound, clip.fps)
        for name, (how, strength) in DEGRADED.items():
            worse = degrade(footage, how, strength)
            mark = media.synthetic_mark(f"generator {name}", 0, "1")
            rate = worse.sound.sample_rate
            media.write_video(
                root / name / target,
                worse.frames,
                worse.fps,
                worse.sound.samples,
                rate,
                mark,
                preset="ultrafast",
            )
    return root


@pytest.fixture
def study(folders, tmp_path):
    """Three raters, all samples by all, one hidden repeat, one training sample."""
    versions = {name: folders / name for name in QUALITY}
    return create(
        tmp_path / "study",
        versions,
        ["ann", "bob", "cy"],
        StudyPlan(3, 3, 1, 1, seed=3),
        truth="original",
    ).study

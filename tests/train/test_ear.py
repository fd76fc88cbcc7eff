"""The ear: what lessons are made of, what disturbs them, a whole run, and a generator that changes
its ear.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flowportrait.encoders.mel import MelEncoder
from flowportrait.errors import ConfigError, DataError
from flowportrait.faces.landmarks import eye_distance as measured_eyes
from flowportrait.faces.landmarks import lip_opening
from flowportrait.model.blocks import MoTConfig
from flowportrait.model.mot import MoT
from flowportrait.train.tiny import ear
from flowportrait.train.tiny.crops import LatentSource, draw_crops
from flowportrait.train.tiny.hearing import translate
from flowportrait.train.tiny.latents import LatentClip
from flowportrait.train.tiny.lessons import Lessons, draw_lessons
from flowportrait.train.tiny.sounds import disturb, mixed, through_telephone

RATE = 16_000


def write_lessons(root, teacher_size=4, shapes=True):
    """Two recordings whose teacher and shapes say the time of their rows."""
    root.mkdir()
    rng = np.random.default_rng(0)
    seconds = (3, 2)
    audio = [rng.normal(0, 3000, s * RATE).astype(np.int16) for s in seconds]
    teacher = [np.repeat(np.arange(s * 50)[:, None] / 50, teacher_size, 1) for s in seconds]
    faces = [np.repeat(np.arange(s * 24)[:, None] / 24, 27, 1) for s in seconds]
    np.save(root / "audio.npy", np.concatenate(audio))
    np.save(root / "teach.npy", np.concatenate(teacher).astype(np.float16))
    if shapes:
        np.save(root / "shapes.npy", np.concatenate(faces).astype(np.float16))
    counts = {"samples": audio, "teacher": teacher, "frames": faces if shapes else [(), ()]}
    index = {name: [len(part) for part in parts] for name, parts in counts.items()}
    (root / "index.json").write_text(json.dumps(index | {"held_out": [False, True]}))
    return root


def test_teacher_and_shapes_stand_at_the_moments_of_the_sound(tmp_path):
    lessons = Lessons(write_lessons(tmp_path / "a"))
    lesson = lessons.lessons[1]
    sound, heard, shapes = lessons.crop(lesson, 0.5, 12, 1.0)
    moments = 0.5 + np.arange(12) / 24
    assert np.allclose(heard[:, 0], moments, atol=2e-3)
    assert np.allclose(shapes[:, 0], moments, atol=2e-3)
    own = lessons.audio[lesson.sample : lesson.sample + lesson.num_samples] / 32768
    assert np.allclose(sound, own[RATE // 2 : RATE], atol=1e-6)
    faster = lessons.crop(lesson, 0.5, 12, 1.2)
    assert np.allclose(faster[1][:, 0], 0.5 + np.arange(12) / 20, atol=2e-3)


def test_behind_the_end_there_is_silence_and_nothing_is_asked_for(tmp_path):
    lessons = Lessons(write_lessons(tmp_path / "a"))
    sound, heard, shapes = lessons.crop(lessons.lessons[1], 1.5, 24, 1.0)
    assert not sound[RATE // 2 :].any()
    assert np.isfinite(heard[:12]).all() and np.isnan(heard[12:]).all()
    assert np.isnan(shapes[12:]).all()


def test_held_out_recordings_are_not_drawn_for_training(tmp_path):
    lessons = Lessons(write_lessons(tmp_path / "a", shapes=False))
    batch = draw_lessons(lessons, "held_out", 8, 1.0, np.random.default_rng(0), disturbed=False)
    assert batch.heard.nan_to_num().max() < 2
    assert torch.isnan(batch.shapes).all()
    assert draw_lessons(lessons, "train", 64, 1.0, np.random.default_rng(0)).heard.max() > 2


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError, match="bench.teach"):
        Lessons(tmp_path)


def test_a_telephone_lets_its_band_through_and_nothing_else():
    times = np.arange(RATE) / RATE
    low, middle, high = (np.sin(2 * np.pi * hz * times) for hz in (100, 1000, 5000))
    assert np.allclose(through_telephone(low + middle + high), middle, atol=1e-6)


def test_a_mixture_has_the_distance_that_is_asked_for():
    rng = np.random.default_rng(0)
    voice, other = rng.normal(size=RATE), 7 * rng.normal(size=RATE)
    added = mixed(voice, other, 20) - voice
    assert 10 * np.log10(np.square(voice).mean() / np.square(added).mean()) == pytest.approx(20)
    assert np.array_equal(mixed(np.zeros(RATE), other, 20), np.zeros(RATE))


@pytest.mark.parametrize("seed", range(6))
def test_disturbed_speech_stays_where_it_was(seed):
    rng = np.random.default_rng(seed)
    bursts = rng.normal(size=RATE) * (np.arange(RATE) // 2000 % 2)
    heard = disturb(bursts, rng.normal(size=RATE) * 0.1, rng)
    assert heard.dtype == np.float32 and np.isfinite(heard).all()
    level = lambda sound: np.square(sound).reshape(-1, 500).mean(1)  # noqa: E731
    assert np.corrcoef(level(bursts), level(heard))[0, 1] > 0.7


@pytest.mark.parametrize("step", [1, 2])
def test_vectors_stand_at_the_video_frames_at_any_inner_rate(step):
    torch.manual_seed(0)
    encoder = MelEncoder(MelEncoder.Config(width=16, dilations=(1,), step=step))
    mels = torch.full((1, 80, 400), -3.0)
    struck = mels.clone()
    struck[..., 199:202] = 1.0
    change = (encoder.encode(struck, 96) - encoder.encode(mels, 96)).detach().square().sum(-1)[0]
    assert change.argmax().item() == pytest.approx(48, abs=1)


TOY = [
    "audio_encoder.width=16",
    "audio_encoder.dilations=[1]",
    "audio_encoder.step=2",
    "num_crops=3",
    "crop_s=0.5",
    "run.log_every=1",
    "run.checkpoint_every=2",
    "run.sample_every=4",
]


@pytest.fixture
def recipe(tmp_path):
    write_lessons(tmp_path / "seen"), write_lessons(tmp_path / "heard", shapes=False)

    def write(name):
        path = tmp_path / f"{name}.toml"
        lessons = "".join(f'[[lessons]]\npath = "{tmp_path / n}"\n' for n in ("seen", "heard"))
        path.write_text(f'[run]\ndirectory = "{tmp_path / name}"\nnum_updates = 4\n{lessons}')
        return path

    return write


def test_a_stopped_run_continues_with_the_update_it_would_have_made(recipe):
    constant = [*TOY, "optimizer.decay_from=2.0"]
    ear.train(recipe("stopped"), [*constant, "run.num_updates=2"], resume=None)
    resumed = ear.train(recipe("stopped"), constant, resume="auto")
    whole = ear.train(recipe("whole"), constant, resume=None)
    one, other = (load_file(run / "audio_encoder.safetensors") for run in (resumed, whole))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    encoder = MelEncoder(MelEncoder.Config(width=16, dilations=(1,), step=2))
    encoder.load_state_dict(one)
    rows = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    looked = next(row for row in rows if row.get("event") == "sample")
    assert {"held_out_loss", "cosine", "r_jaw"} <= looked.keys()


def test_lessons_of_two_teachers_are_refused(recipe, tmp_path):
    path = recipe("mixed")
    write_lessons(tmp_path / "other", teacher_size=5)
    path.write_text(path.read_text() + f'[[lessons]]\npath = "{tmp_path / "other"}"\n')
    with pytest.raises(ConfigError, match="a single teacher"):
        ear.train(path, TOY, resume=None)


def test_a_generator_that_changes_its_ear_hears_the_same(small_speech):
    torch.manual_seed(0)
    config = MelEncoder.Config(width=16, dilations=(1,))
    before, after = MelEncoder(config).eval(), MelEncoder(config).eval()
    after.load_state_dict(before.state_dict())
    after.out_norm.weight.data *= torch.linspace(-2, 3, 16)
    after.out_norm.bias.data += 1.0
    model = MoT(MoTConfig.tiny(audio_dim=16, image_dim=8))
    heard = model.embed_audio(before.encode(small_speech, 24))
    translate(model, before, after, [small_speech[0]])
    again = model.embed_audio(after.encode(small_speech, 24))
    error = (again - heard).square().mean() / heard.var(1).mean()
    assert error < 0.05


@pytest.fixture
def small_speech():
    return torch.randn(1, 80, 600, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)


def source_of(share, eye_distance, value, openings):
    """A source of two clips whose portraits' lips stand `openings` apart."""
    points = np.zeros((len(openings), 68, 2), np.float32)
    points[:, 36:42, 0], points[:, 42:48, 0] = -eye_distance / 2, eye_distance / 2
    points[:, 65:68, 1] = np.array(openings)[:, None] * eye_distance
    count = len(openings)
    images = np.full((count, 3, 5), value, np.float32) + np.arange(count)[:, None, None]
    latents = SimpleNamespace(
        clips=[LatentClip(i, i, "train", 6 * i, 6, 0) for i in range(count)],
        latents=np.full((12, 16, 4, 4), value, np.float32),
        image=images,
        faces=(lip_opening(points), measured_eyes(points)),
    )
    cached = [SimpleNamespace(frame_start=0, num_frames=24) for _ in openings]
    hearing = SimpleNamespace(
        mels=[torch.zeros(80, 100)] * 2, shapes=np.zeros((24, 27), np.float32)
    )
    return LatentSource(SimpleNamespace(clips=cached), latents, hearing, share)


def test_a_borrowed_face_has_lips_as_far_apart_and_movements_of_its_size():
    real = source_of(1.0, 0.4, 1.0, [0.10, 0.10])
    rendered = source_of(0.0, 0.5, 7.0, [0.30, 0.11])
    arguments = ([real, rendered], np.random.default_rng(0), 6, 4, 0, 0.0, 0.0)
    borrowed = draw_crops(*arguments, borrowed=1.0)
    assert torch.equal(borrowed.image, torch.full((6, 3, 5), 8.0)), "the one whose lips are alike"
    assert torch.allclose(borrowed.latents, torch.tensor(1.25))
    own = draw_crops(*arguments)
    assert own.image.max() < 3 and torch.equal(own.latents, torch.ones_like(own.latents))

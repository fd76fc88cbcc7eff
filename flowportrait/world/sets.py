"""Whole data sets: clips with sound and ground truth, by identity, in parallel, going on where a
run stopped.

OUT_DIR holds KEY.mp4, KEY.npz (float16, a row a frame: viseme, arkit, blink, pose, gaze, energy,
landmarks68, irises), clips.jsonl (one record a clip) and world.json (the settings). KEY is
rig_seed_take. Everything about a clip follows from the settings and its key, so a larger set of the
same settings contains the smaller one.
"""

import json
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from flowportrait import media
from flowportrait.arrays import Array
from flowportrait.errors import ConfigError, DataError
from flowportrait.progress import Progress
from flowportrait.world.head import Head, build_head
from flowportrait.world.names import VISEMES
from flowportrait.world.perform import draw_manner, perform
from flowportrait.world.phones import VISEMES_OF
from flowportrait.world.rig import load_rig
from flowportrait.world.scene import Scene
from flowportrait.world.sentences import Split
from flowportrait.world.speech import Utterance, make_speaker

SIZES_PX = (64, 128, 256, 512)
_SPLIT_DIGITS = (0, 1, 9, 2, 8, 3, 4, 5, 6, 7)
"""Last digit of the seeds of every ten identities: 9 is test, 8 validation, all else train."""
_TAKES = 6
"""Clips per identity when the number of identities is not given."""


@dataclass(frozen=True)
class Settings:
    """Settings that a set is made from; written to world.json, and a run that goes on must have the
    same.
    """

    seed: int = 0
    size_px: int = 128
    rig: str = "anny"
    voice: str = "auto"
    longest_s: float = 4.2
    identities: int = 1


@dataclass(frozen=True)
class Take:
    """One clip to be made."""

    settings: Settings
    identity_seed: int
    take: int
    rig_name: str

    @property
    def key(self) -> str:
        """The clip's name."""
        return f"{self.rig_name}_{self.identity_seed:05d}_{self.take}"

    @property
    def split(self) -> Split:
        """The split of the identity, and so of the clip."""
        return {9: "test", 8: "validation"}.get(self.identity_seed % 10, "train")


def identities_for(clips: int) -> int:
    """Default number of identities for a set of `clips`."""
    return max(1, -(-clips // _TAKES))


def plan(settings: Settings, clips: int) -> list[Take]:
    """The clips of a set, spread evenly over the identities, those of an identity together."""
    rig_name = load_rig(settings.rig).about.name
    takes = []
    for identity in range(settings.identities):
        seed = settings.seed * 10_000 + identity // 10 * 10 + _SPLIT_DIGITS[identity % 10]
        count = clips // settings.identities + (identity < clips % settings.identities)
        takes += [
            Take(
                settings,
                seed,
                take,
                rig_name,
            )
            for take in range(count)
        ]
    return takes


def render_set(
    out_dir: Path,
    settings: Settings,
    clips: int,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[dict]:
    """Renders what is not there yet and gives the records of the whole set. Raises ConfigError for
    other settings.
    """
    if settings.size_px not in SIZES_PX:
        raise ConfigError(
            f"--size: got {settings.size_px}; give one of {', '.join(map(str, SIZES_PX))}"
        )
    make_speaker(settings.voice)
    takes = plan(settings, clips)
    out_dir.mkdir(parents=True, exist_ok=True)
    _agree(out_dir / "world.json", settings)
    for left_behind in out_dir.glob(".*.part.*"):
        left_behind.unlink()
    records = _whole_records(out_dir)
    _write_index(out_dir, records)
    groups: dict[int, list[Take]] = {}
    for take in takes:
        if take.key not in records:
            groups.setdefault(take.identity_seed, []).append(take)
    done = len(takes) - sum(map(len, groups.values()))
    with (out_dir / "clips.jsonl").open("a", encoding="utf-8") as index:
        for record in _rendered(out_dir, list(groups.values()), workers):
            records[record["key"]] = record
            index.write(json.dumps(record) + "\n")
            index.flush()
            done += 1
            if progress:
                progress(done, len(takes))
    _write_index(out_dir, records)
    return [records[take.key] for take in takes]


def _rendered(out_dir: Path, groups: list[list[Take]], workers: int) -> Iterator[dict]:
    """Records as clips are finished."""
    if workers == 1 or len(groups) < 2:
        for take in (take for group in groups for take in group):
            yield render_take(out_dir, take)
        return
    context = multiprocessing.get_context("spawn")
    finished = context.SimpleQueue()
    pool = ProcessPoolExecutor(min(workers, len(groups)), context, _start_worker, (finished,))
    try:
        pending = {pool.submit(_render_group, out_dir, group) for group in groups}
        while pending or not finished.empty():
            ended, pending = wait(pending, timeout=0.05)
            while not finished.empty():
                yield finished.get()
            for group in ended:
                group.result()
    except BrokenProcessPool as error:
        while not finished.empty():
            yield finished.get()
        raise DataError(
            f"{out_dir}: a worker was killed, perhaps for lack of memory; run the command again to"
            " resume"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(finished) -> None:
    """Keeps where records go to, and ends this process with the one that started it, however that
    ends.
    """
    global _finished
    _finished = finished
    starter = multiprocessing.parent_process()

    def end_with_starter() -> None:
        starter.join()
        os._exit(1)

    threading.Thread(target=end_with_starter, daemon=True).start()


def _render_group(out_dir: Path, group: list[Take]) -> None:
    for take in group:
        _finished.put(render_take(out_dir, take))


@lru_cache(maxsize=1)
def _head(rig: str, seed: int) -> Head:
    return build_head(rig, seed)


def render_take(out_dir: Path, take: Take) -> dict:
    """Renders one clip, writes KEY.mp4 and KEY.npz, and gives its record."""
    settings = take.settings
    head = _head(settings.rig, take.identity_seed)
    clip_seed = [settings.seed, take.identity_seed, take.take]
    rng = np.random.default_rng([*clip_seed, 9])
    speech = make_speaker(settings.voice).utter(
        rng, head.person.presentation, take.split, settings.longest_s
    )
    manner = draw_manner(take.identity_seed)
    performance = perform(rng, speech.phones, speech.samples, speech.sample_rate, manner, head.lips)
    scene = Scene(head, clip_seed, settings.size_px)
    landmarks: list[Array] = []
    irises: list[Array] = []

    def frames() -> Iterator[Array]:
        for filmed in scene.film(performance.motion):
            landmarks.append(filmed.landmarks)
            irises.append(filmed.irises)
            yield filmed.frame

    mark = media.synthetic_mark(
        f"world {take.rig_name}", take.identity_seed, version("flowportrait")
    )
    path = out_dir / f"{take.key}.mp4"
    num_frames = media.write_video(
        path, frames(), media.FPS, speech.samples, speech.sample_rate, mark, preset="veryfast"
    )
    motion = performance.motion
    truth = {
        "viseme": performance.speech.visemes,
        "arkit": motion.faces,
        "blink": performance.blink,
        "pose": motion.pose,
        "gaze": motion.gaze,
        "energy": performance.energy,
        "landmarks68": np.stack(landmarks),
        "irises": np.stack(irises),
    }
    partial = out_dir / f".{take.key}.{os.getpid()}.part.npz"
    np.savez_compressed(partial, **{name: rows.astype(np.float16) for name, rows in truth.items()})
    partial.replace(out_dir / f"{take.key}.npz")
    return _record(take, head, speech, performance, scene, num_frames)


def _record(
    take: Take, head: Head, speech: Utterance, performance, scene: Scene, num_frames: int
) -> dict:
    """The line of the index about a clip."""
    return {
        "key": take.key,
        "split": take.split,
        "identity": head.person.as_dict(),
        "text": speech.text,
        "voice": speech.voice.as_dict(),
        "emotion": performance.emotion,
        "intensity": round(performance.intensity, 4),
        "fps": media.FPS,
        "size": take.settings.size_px,
        "n": num_frames,
        "duration": round(speech.duration_s, 4),
        "light": scene.lighting.mood,
        "background": scene.background,
        "phonemes": [[phone.start_s, phone.name] for phone in speech.phones],
        "visemes_seg": [
            [round(a, 4), round(b, 4), name] for a, b, name in performance.speech.segments
        ],
        "blink_times": [round(at, 4) for at in performance.blink_times_s],
        "rig": take.rig_name,
        "licence": head.rig.about.licence,
        "generator": f"flowportrait {version('flowportrait')}",
    }


def _agree(path: Path, settings: Settings) -> None:
    """Writes the settings, or checks that they are those the set was begun with."""
    wanted = asdict(settings)
    if not path.is_file():
        path.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    for name, value in wanted.items():
        if begun.get(name) != value:
            raise ConfigError(
                f"{path}: started with {name} {begun.get(name)}, now {value}; use another folder"
            )


def _whole_records(out_dir: Path) -> dict[str, dict]:
    """Records by key of clips whose files are there; a last line that a stopped run left half
    written is none.
    """
    index = out_dir / "clips.jsonl"
    lines = index.read_text(encoding="utf-8").splitlines() if index.is_file() else []
    records = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                continue
            raise DataError(
                f"{index}:{number}: invalid record ({error.msg}); remove this line and run again"
            ) from error
        files = [out_dir / f"{record['key']}{suffix}" for suffix in (".mp4", ".npz")]
        if all(file.is_file() for file in files):
            records[record["key"]] = record
    return records


def _write_index(out_dir: Path, records: dict[str, dict]) -> None:
    lines = [json.dumps(records[key]) + "\n" for key in sorted(records)]
    (out_dir / "clips.jsonl").write_text("".join(lines), encoding="utf-8")


def coverage(records: list[dict]) -> dict[str, dict[str, int]]:
    """Number of occurrences of each phone and viseme in a set."""
    phones = Counter(name for record in records for _, name in record["phonemes"])
    visemes = Counter(name for record in records for *_, name in record["visemes_seg"])
    return {
        "phones": {name: phones[name] for name in VISEMES_OF},
        "visemes": {name: visemes[name] for name in VISEMES},
    }

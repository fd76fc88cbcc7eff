"""Renders held-out people of the world who go on talking, long enough for blinks to be counted.

    python -m bench.long_clips OUT --clips 12 --seconds 20

One clip a person: sentence after sentence in one voice. Same files as a set of `flowportrait world
render`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from flowportrait import media
from flowportrait.world.head import build_head
from flowportrait.world.perform import draw_manner, perform
from flowportrait.world.phones import Phone
from flowportrait.world.scene import Scene
from flowportrait.world.sentences import Split, draw_sentence
from flowportrait.world.sets import Settings, plan
from flowportrait.world.speech import Utterance, make_speaker, say

PAUSE_S = 0.35


def talk(rng: np.random.Generator, presentation: str, split: Split, seconds: float) -> Utterance:
    """Sentences in one voice, with pauses, until `seconds` are over."""
    first = make_speaker("auto").utter(rng, presentation, split, 4.2)
    rate, texts = first.sample_rate, [first.text]
    sounds, phones = [first.samples], list(first.phones)
    while (at := sum(map(len, sounds)) / rate) < seconds:
        text = draw_sentence(rng, split)
        samples, _, spoken = say(text, first.voice)
        loud = samples * (0.8 / max(0.05, float(np.abs(samples).max())))
        sounds += [loud, np.zeros(round(PAUSE_S * rate), loud.dtype)]
        phones += [Phone(round(at + phone.start_s, 4), phone.name) for phone in spoken]
        texts.append(text)
    samples = np.concatenate(sounds)[: round(seconds * rate)]
    return Utterance(
        samples, rate, [p for p in phones if p.start_s < seconds], " ".join(texts), first.voice
    )


def render(out: Path, clips: int, seconds: float) -> None:
    """Writes KEY.mp4, KEY.npz and a line of clips.jsonl for every person; goes on where it
    stopped.
    """
    out.mkdir(parents=True, exist_ok=True)
    index = out / "clips.jsonl"
    done = (
        {json.loads(line)["key"] for line in index.read_text().splitlines()}
        if index.is_file()
        else set()
    )
    takes = [
        take for take in plan(Settings(identities=clips * 5), clips * 5) if take.split != "train"
    ][:clips]
    for take in takes:
        key = f"long_{take.identity_seed:05d}"
        if key in done:
            continue
        head = build_head(take.settings.rig, take.identity_seed)
        rng = np.random.default_rng([take.identity_seed, 20])
        speech = talk(rng, head.person.presentation, take.split, seconds)
        manner = draw_manner(take.identity_seed)
        made = perform(rng, speech.phones, speech.samples, speech.sample_rate, manner, head.lips)
        filmed = list(
            Scene(head, [take.identity_seed, 20], take.settings.size_px).film(made.motion)
        )
        frames = np.stack([picture.frame for picture in filmed])
        media.write_video(
            out / f"{key}.mp4", frames, media.FPS, speech.samples, speech.sample_rate, {}
        )
        landmarks = np.stack([picture.landmarks for picture in filmed]).astype(np.float16)
        np.savez_compressed(
            out / f"{key}.npz", landmarks68=landmarks, blink=made.blink.astype(np.float16)
        )
        record = {
            "key": key,
            "split": take.split,
            "identity": head.person.as_dict(),
            "text": speech.text,
            "voice": speech.voice.as_dict(),
            "n": len(frames),
            "emotion": made.emotion,
            "blink_times": [round(at, 4) for at in made.blink_times_s],
        }
        with index.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{key}: {len(frames)} frames, {len(made.blink_times_s)} blinks", flush=True)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    render(args.out, args.clips, args.seconds)


if __name__ == "__main__":
    main()

"""Every kind of wrong input that is tried, and docs/bad-inputs.md made of them.

python tests/bad_inputs.py    writes the document; tests/test_bad_inputs.py fails when it is out of
date.
"""

import shlex
import shutil
import struct
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import table, warnings_table
from PIL import Image

from flowportrait import media
from flowportrait.files import VIDEO_SUFFIXES
from flowportrait.registry import COMPARERS, SCORERS

NO_RECIPE = "none.toml: no such recipe; give the path of a .toml file or a name (see: list recipes)"
DOCUMENT = Path(__file__).parent.parent / "docs" / "bad-inputs.md"
GOOD = "generate face.png speech.wav -o out.mp4"
SCORE = "score mute.mp4 -o s.jsonl"


@dataclass(frozen=True)
class BadInput:
    """A command that must end with code 2 and the one line `error: <line>`, in a folder of
    `make_files`.
    """

    kind: str
    command: str
    line: str

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.command)


PICTURE, SOUND = media.PICTURE_KINDS, media.SOUND_KINDS
USAGE = "see flowportrait generate --help"

BAD_INPUTS = [
    BadInput(
        "portrait: missing",
        "generate none.png speech.wav -o out.mp4",
        f"none.png: no such file; give the path of {PICTURE}",
    ),
    BadInput(
        "portrait: a folder",
        "generate folder speech.wav -o out.mp4",
        f"folder: is a folder; give the path of {PICTURE}",
    ),
    BadInput(
        "portrait: empty file",
        "generate empty speech.wav -o out.mp4",
        f"empty: the file is empty; give {PICTURE}",
    ),
    BadInput(
        "portrait: a text named .jpg",
        "generate text.jpg speech.wav -o out.mp4",
        f"text.jpg: not a supported picture format; give {PICTURE}",
    ),
    BadInput(
        "portrait: JPEG cut off",
        "generate cut.jpg speech.wav -o out.mp4",
        "cut.jpg: a damaged picture (image file is truncated (150 bytes not processed)); give "
        "another",
    ),
    BadInput(
        "portrait: PNG cut off",
        "generate cut.png speech.wav -o out.mp4",
        "cut.png: a damaged picture (image file is truncated); give another",
    ),
    BadInput(
        "portrait: a sound",
        "generate speech.wav speech.wav -o out.mp4",
        f"speech.wav: not a supported picture format; give {PICTURE}",
    ),
    BadInput(
        "portrait: a video",
        "generate mute.mp4 speech.wav -o out.mp4",
        f"mute.mp4: not a supported picture format; give {PICTURE}",
    ),
    BadInput(
        "portrait: 400 megapixels",
        "generate bomb.png speech.wav -o out.mp4",
        "bomb.png: over 178 megapixels; downscale the picture",
    ),
    BadInput(
        "portrait: nobody in it",
        "generate grey.png speech.wav -o out.mp4",
        "portrait: no face found in 256x256 px; give a picture of one face, or a picture already"
        " cropped to the face with --crop none",
    ),
    BadInput(
        "sound: missing",
        "generate face.png none.wav -o out.mp4",
        f"none.wav: no such file; give the path of {SOUND}",
    ),
    BadInput(
        "sound: a folder",
        "generate face.png folder -o out.mp4",
        f"folder: is a folder; give the path of {SOUND}",
    ),
    BadInput(
        "sound: empty file",
        "generate face.png empty -o out.mp4",
        f"empty: the file is empty; give {SOUND}",
    ),
    BadInput(
        "sound: a text named .wav",
        "generate face.png text.wav -o out.mp4",
        f"text.wav: cannot be read (Invalid data found when processing input); give {SOUND}",
    ),
    BadInput(
        "sound: wav cut off in its head",
        "generate face.png head.wav -o out.mp4",
        "head.wav: cut off, 20 of 32044 bytes; give the whole file",
    ),
    BadInput(
        "sound: wav cut off in its samples",
        "generate face.png cut.wav -o out.mp4",
        "cut.wav: cut off, 19244 of 32044 bytes; give the whole file",
    ),
    BadInput(
        "sound: no samples",
        "generate face.png silent.wav -o out.mp4",
        "silent.wav: 0.00 s of sound; give at least 0.5 s",
    ),
    BadInput(
        "sound: 0.3 s",
        "generate face.png short.wav -o out.mp4",
        "short.wav: 0.30 s of sound; give at least 0.5 s",
    ),
    BadInput(
        "sound: NaN samples",
        "generate face.png nan.wav -o out.mp4",
        "nan.wav: holds samples that are not numbers (NaN or infinite); export the sound again",
    ),
    BadInput(
        "sound: a video without a sound track",
        "generate face.png mute.mp4 -o out.mp4",
        "mute.mp4: has no sound track; give another file",
    ),
    BadInput(
        "sound: a picture",
        "generate face.png face.png -o out.mp4",
        "face.png: has no sound track; give another file",
    ),
    BadInput(
        "output: another kind of file",
        "generate face.png speech.wav -o out.avi",
        "out.avi: cannot write .avi; give a name ending in .mp4",
    ),
    BadInput(
        "output: no suffix",
        "generate face.png speech.wav -o out",
        "out: cannot write a file without suffix; give a name ending in .mp4",
    ),
    BadInput(
        "output: a folder",
        "generate face.png speech.wav -o folder.mp4",
        "folder.mp4: is a folder; give the name of a file in it",
    ),
    BadInput(
        "output: in no folder",
        "generate face.png speech.wav -o none/out.mp4",
        "none/out.mp4: the folder none does not exist; create it first",
    ),
    BadInput(
        "output: in a file",
        "generate face.png speech.wav -o text.jpg/out.mp4",
        "text.jpg/out.mp4: the folder text.jpg does not exist; create it first",
    ),
    BadInput(
        "output: folder that refuses files",
        "generate face.png speech.wav -o /proc/out.mp4",
        "/proc/out.mp4: the folder /proc cannot be written to (No such file or directory)",
    ),
    BadInput(
        "output: over the input",
        "generate face.png mute.mp4 -o mute.mp4",
        "mute.mp4: is also an input file; give another -o",
    ),
    BadInput(
        "output: not given",
        "generate face.png speech.wav",
        f"Missing option '-o' / '--out'; {USAGE}",
    ),
    BadInput(
        "model: misspelt",
        f"{GOOD} --model tinny",
        "model: no model or directory 'tinny'; did you mean 'tiny'? allowed: tiny",
    ),
    BadInput(
        "model: a folder that is none",
        f"{GOOD} --model folder",
        "model: folder contains no config.json; allowed: tiny",
    ),
    BadInput(
        "model: a damaged one",
        f"{GOOD} --model broken-model",
        "broken-model/config.json: name: field required",
    ),
    BadInput(
        "evaluations: none",
        f"{GOOD} --evaluations 0",
        "Invalid value for '--evaluations': Input should be greater than or equal to 1 (got "
        f"'0'); {USAGE}",
    ),
    BadInput(
        "evaluations: negative",
        f"{GOOD} --evaluations -1",
        "Invalid value for '--evaluations': Input should be greater than or equal to 1 (got "
        f"'-1'); {USAGE}",
    ),
    BadInput(
        "evaluations: no number",
        f"{GOOD} --evaluations abc",
        "Invalid value for '--evaluations': Input should be a valid integer, unable to parse "
        f"string as an integer (got 'abc'); {USAGE}",
    ),
    BadInput(
        "guidance: not a number",
        f"{GOOD} --guidance nan",
        "--guidance: got nan; give a number from 0 to 100, 1 for no guidance",
    ),
    BadInput(
        "guidance: infinite",
        f"{GOOD} --guidance inf",
        "--guidance: got inf; give a number from 0 to 100, 1 for no guidance",
    ),
    BadInput(
        "guidance: a word",
        f"{GOOD} --guidance much",
        "Invalid value for '--guidance': Input should be a valid number, unable to parse "
        f"string as a number (got 'much'); {USAGE}",
    ),
    BadInput(
        "seed: negative",
        f"{GOOD} --seed -1",
        "Invalid value for '--seed': Input should be greater than or equal to 0 (got '-1'); "
        f"{USAGE}",
    ),
    BadInput(
        "seed: a fraction",
        f"{GOOD} --seed 1.5",
        "Invalid value for '--seed': Input should be a valid integer, unable to parse string "
        f"as an integer (got '1.5'); {USAGE}",
    ),
    BadInput(
        "seed: beyond 63 bits",
        f"{GOOD} --seed 9223372036854775808",
        "Invalid value for '--seed': Input should be less than or equal to "
        f"9223372036854775807 (got '9223372036854775808'); {USAGE}",
    ),
    BadInput(
        "crop: a wrong word",
        f"{GOOD} --crop face",
        f"Invalid value for '--crop': 'face' is not one of 'auto', 'none' (got 'face'); {USAGE}",
    ),
    BadInput(
        "device: not there", f"{GOOD} --device tpu", "device: got 'tpu'; usable here: auto, cpu"
    ),
    BadInput(
        "option: misspelt",
        f"{GOOD} --guidence 2",
        f"No such option: --guidence (Possible options: --device, --guidance); {USAGE}",
    ),
    BadInput(
        "command: misspelt",
        "genrate face.png speech.wav",
        "No such command 'genrate'. Did you mean 'generate'; see flowportrait --help",
    ),
    BadInput(
        "list: what does not exist",
        "list judges",
        "Invalid value for 'WHAT': 'judges' is not one of 'models', 'codecs', 'encoders',"
        " 'detectors', 'speech-filters', 'recipes', 'scorers', 'sets', 'systems', 'backends' (got"
        " 'judges'); see flowportrait list --help",
    ),
    BadInput(
        "score: nothing there",
        "score none.mp4 --scorers mas-ma -o s.jsonl",
        "none.mp4: no such file or folder; give a video, a folder of videos or a manifest (.jsonl)",
    ),
    BadInput(
        "score: a folder without videos",
        "score folder --scorers mas-ma -o s.jsonl",
        f"no video in folder; give {', '.join(VIDEO_SUFFIXES)} files",
    ),
    BadInput(
        "score: scorer misspelt",
        f"{SCORE} --scorers mas-me",
        "scorer: no 'mas-me'; did you mean 'mas-ma'? allowed: "
        f"{', '.join(sorted([*SCORERS.names(), 'paper', 'standard']))}",
    ),
    BadInput(
        "score: output is a folder",
        "score mute.mp4 --scorers mas-ma -o folder",
        "folder: is a folder; give a file such as folder/scores.jsonl",
    ),
    BadInput(
        "score: unknown setting",
        f"{SCORE} --scorers mas-ma --set judge.budjet.max_usd=1",
        "--set: unknown key 'judge.budjet'; did you mean 'budget'? allowed: accept_models, backend,"
        " both_orders, budget, check, limits, preset, prices, prompts, renew_unusable, repeats,"
        " retries, seed, use_expected",
    ),
    BadInput(
        "score: unknown backend",
        f"{SCORE} --scorers mas-ma --set judge.backend.type=gemni",
        "judge backend: no 'gemni'; did you mean 'gemini'? allowed: gemini, offline, openai,"
        " replay, transformers",
    ),
    BadInput(
        "score: unknown setting of a backend",
        f"{SCORE} --scorers mas-ma --set judge.backend.fsp=8",
        "judge.backend: unknown key 'fsp'; did you mean 'fps'? allowed: api_key_env, base_url,"
        " expected_output_tokens, fps, inline_below_bytes, logprobs, max_output_tokens, model,"
        " poll_s, resolution, safety, seed, temperature, thinking_budget, thinking_level, top_k,"
        " top_p, upload",
    ),
    BadInput(
        "score: server without an address",
        f"{SCORE} --scorers mas-ma --set judge.backend.type=openai --set judge.backend.model=m",
        "judge.backend.base_url: missing; give the server's, such as --set"
        " judge.backend.base_url=...",
    ),
    BadInput(
        "score: budget in money without prices",
        f"{SCORE} --scorers mas-ma --set judge.budget.max_usd=1",
        "judge.budget.max_usd: needs judge.prices; give the vendor's current prices",
    ),
    BadInput(
        "score: no folder of prompts",
        f"{SCORE} --scorers mas-ma --set judge.prompts=none",
        "prompts: no folder 'none'; give one with files such as repair.md",
    ),
    BadInput(
        "score: settings of an unknown scorer",
        f"{SCORE} --scorers mas-ma --set scorers.mas-mi.seed=1",
        "scorers.mas-mi: no such scorer; did you mean 'mas-ma'? allowed: "
        f"{', '.join(sorted({*SCORERS.names(), *COMPARERS.names()}))}",
    ),
    BadInput(
        "compare: missing",
        "compare none.mp4 mute.mp4",
        "none.mp4: no such file; give two videos, two folders or two manifests",
    ),
    BadInput(
        "compare: system misspelt",
        "compare mute.mp4 mute.mp4 --system dirct",
        "comparer: no 'dirct'; did you mean 'direct-comp'? allowed: direct-comp, icl-comp, ma-comp",
    ),
    BadInput("judge-sim: faults missing", "judge-sim --faults none.toml", NO_RECIPE),
    BadInput(
        "encode: no folder",
        "encode none -o out",
        "none: no such folder; give a prepared or a rendered dataset",
    ),
    BadInput(
        "encode: a folder without an index",
        "encode folder -o out",
        "folder: neither manifest.jsonl nor clips.jsonl; give a prepared or a rendered dataset",
    ),
    BadInput(
        "convert: nothing there",
        "convert bagel none -o model",
        "none: no such file or folder; give the published weights",
    ),
    BadInput(
        "convert: a folder without weights",
        "convert bagel folder -o model",
        "folder: no ema.safetensors (29.2 GB); download it from"
        " huggingface.co/ByteDance-Seed/BAGEL-7B-MoT",
    ),
    BadInput(
        "convert: no model to add to",
        "convert whisper folder -o model",
        "model: contains no model; create one with: flowportrait convert bagel FOLDER -o model",
    ),
    BadInput(
        "export: no model",
        "export folder -o out",
        "folder: contains no model; create one with: flowportrait convert bagel FOLDER -o folder",
    ),
    BadInput(
        "plan: unknown GPU",
        "plan none.toml --gpu h10",
        "--gpu: got 'h10'; did you mean 'h100'? allowed: a100, a100-40, b200, h100, h200, l40s,"
        " rtx4090",
    ),
    BadInput(
        "plan: a monitor as a reward",
        "plan rl-paper --set 'reward.terms=[{scorers=[\"jitter\"]}]'",
        "reward.terms: 'jitter' is a monitor against reward hacking; name it in watch.monitors,"
        " and another measure here",
    ),
    BadInput(
        "plan: a judge that costs money, and no budget",
        "plan rl-paper --set scoring.judge.preset=gemini-flash --set scoring.judge.backend={}",
        "scoring.judge.budget: lip_sync uses a paid judge; give max_tokens or "
        "max_usd (flowportrait plan says what a run needs), or an open judge: scoring.judge",
    ),
    BadInput(
        "plan: GPUs that cannot share clips",
        "plan rl-paper --gpus 64 --set parallel.sequence=3",
        "parallel.sequence 3: got 64 processes; their number must be a multiple",
    ),
    BadInput(
        "report strips: another kind of picture",
        "report strips x=folder -o strips.jpg",
        "strips.jpg: give the name of a file that ends in .png or .svg",
    ),
    BadInput("plan: nothing to plan", "plan none.toml", NO_RECIPE),
    BadInput("sft: nothing to learn from", "train sft none.toml", NO_RECIPE),
    BadInput(
        "sft: a small model from scratch",
        "train sft tiny-sft",
        "tiny-sft: not a recipe of `train sft`; run: flowportrait train scratch tiny-sft",
    ),
    BadInput(
        "plan: another kind of recipe",
        "plan tiny-sft",
        "tiny-sft: plan knows recipes of `train sft` and `train rl`, not of kind 'scratch'",
    ),
    BadInput("recipe: missing", "train codec none.toml", NO_RECIPE),
    BadInput(
        "recipe: no TOML",
        "train codec text.jpg",
        "text.jpg: not valid TOML: Expected '=' after a key in a key/value pair (at line 1, "
        "column 6)",
    ),
]


def make_files(folder: Path) -> None:
    """All files that the commands name, good and bad ones, in a fresh `folder`."""
    rng = np.random.default_rng(0)
    (folder / "folder").mkdir()
    (folder / "folder.mp4").mkdir()
    (folder / "broken-model").mkdir()
    (folder / "broken-model" / "config.json").write_text("{}")
    (folder / "empty").touch()
    for name in ("text.jpg", "text.wav"):
        (folder / name).write_text("This is a text and nothing else. " * 20)
    _pictures(folder, rng)
    _sounds(folder, rng)
    _mute_video(folder / "mute.mp4")


def _pictures(folder: Path, rng: np.random.Generator) -> None:
    Image.new("RGB", (256, 256), (128, 128, 128)).save(folder / "grey.png")
    shutil.copy(folder / "grey.png", folder / "face.png")
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for name in ("cut.jpg", "cut.png"):
        noise.save(folder / name)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    Image.new("1", (20000, 20000)).save(folder / "bomb.png")


def _sounds(folder: Path, rng: np.random.Generator) -> None:
    samples = (rng.standard_normal(16000) * 3000).astype("<i2")
    for name, count in (
        ("speech.wav", 16000),
        ("cut.wav", 16000),
        ("short.wav", 4800),
        ("silent.wav", 0),
    ):
        with wave.open(str(folder / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(samples[:count].tobytes())
    whole = (folder / "speech.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: 44 + 2 * 9600])
    (folder / "head.wav").write_bytes(whole[:20])
    values = np.full(16000, np.nan, "<f4").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, 16000, 64000, 4, 32)
    chunks = b"WAVE" + form + struct.pack("<4sI", b"data", len(values)) + values
    (folder / "nan.wav").write_bytes(struct.pack("<4sI", b"RIFF", len(chunks)) + chunks)


def _mute_video(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(24):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def document() -> str:
    """docs/bad-inputs.md."""
    rows = "\n".join(f"| {bad.kind} | `{bad.command}` | {_cell(bad.line)} |" for bad in BAD_INPUTS)
    return (
        "# Error messages\n\nEach of these inputs gives exit code 2 and exactly one line, `error:"
        " ...`, without a"
        " traceback and\nwithout leaving a file. `tests/bad_inputs.py` generates the table, and"
        " tests check every line.\n\n| input |"
        " `flowportrait ...` | `error: ...`"
        f" |\n|---|---|---|\n{rows}\n\n{table()}\n{warnings_table()}"
    )


def _cell(line: str) -> str:
    return line.replace("|", "\\|")


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")

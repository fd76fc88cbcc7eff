"""The groups of commands and the examples that `--help` and the reference pages show."""

from collections.abc import Iterator
from typing import NamedTuple

import typer

from flowportrait.cli.help import HelpCommand, HelpGroup


class Example(NamedTuple):
    """A command line with a short comment."""

    line: str
    says: str


GROUPS = {
    "Make videos": ("generate", "serve", "world"),
    "Judge videos": ("score", "evaluate", "compare", "judges", "judge-sim"),
    "Human study": ("study", "report"),
    "Data": ("prepare", "merge", "pack", "unpack", "encode"),
    "Training": ("train", "plan", "reproduce", "convert", "export"),
    "Tools": ("doctor", "list", "config", "samples"),
}
"""The commands by purpose, in the order of `--help`."""

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "generate": (
        ("generate me.jpg speech.wav -o talking.mp4", "the whole picture speaks, at its own size"),
        (
            "generate me.jpg speech.wav -o talking.mp4 --frame face --size 512 --head 0.7",
            "only the face, with less head motion",
        ),
        ("generate data/clips -o made/", "a video for every held-out clip of a dataset"),
    ),
    "serve": (
        ("serve", "a page at http://127.0.0.1:7860/, for this machine alone"),
        ("serve --token a-long-secret --port 8000", "accept only requests with the token"),
    ),
    "world render": (
        ("world render data/world --clips 60 --identities 20", "a dataset with ground truth"),
    ),
    "world import-rig": (
        ("world import-rig ICT-FaceKit -o ict.npz", "a head for `world render --rig ict.npz`"),
    ),
    "score": (
        (
            "score talking.mp4 --scorers sync-small,sharpness -o scores.jsonl",
            "two metrics of one video",
        ),
        (
            "score made/ --truth real/ --scorers standard -o scores.jsonl",
            "metrics that need no download",
        ),
        ("score made/ --scorers mas-ma -o scores.jsonl --dry-run", "the estimated cost of a judge"),
    ),
    "evaluate": (
        (
            "evaluate made/ --truth real/ -o report/",
            "report/report.html, with the videos side by side",
        ),
        (
            "evaluate ours=made/ sonic=panels/sonic --truth real/ -o report/",
            "a column for each generator",
        ),
    ),
    "compare": (
        ("compare a.mp4 b.mp4", "one verdict by a judge"),
        ("compare ours/ theirs/ --system direct -o verdicts.jsonl", "how often each folder wins"),
    ),
    "judges presets": (("judges presets qwen3-omni", "the settings of a preset"),),
    "judges prompts": (("judges prompts --copy my-prompts/", "an editable copy"),),
    "judges agree": (("judges agree old=a.jsonl new=b.jsonl", "two judges on the same clips"),),
    "judge-sim": (
        (
            "judge-sim --port 8089",
            "then: score ... --set judge.backend.base_url=http://127.0.0.1:8089",
        ),
    ),
    "study create": (
        (
            "study create study/ --versions ours=made/ real=real/ --truth real --raters 3",
            "each sample in two versions",
        ),
    ),
    "study serve": (("study serve study/", "prints a link for each rater"),),
    "study export": (("study export study/", "study/export/ with ratings and rankings"),),
    "study agreement": (("study agreement study/", "agreement between the raters"),),
    "study align": (
        ("study align study/ --scores mas-ma=scores.jsonl", "compare a judge with the raters"),
    ),
    "report tables": (
        (
            "report tables study/ ours=scores.jsonl -o tables/",
            "Tables 1 to 5, as far as there is data",
        ),
    ),
    "report figures": (("report figures study/ runs/rl -o figures/", "Figures 2, 3, 5 and 6"),),
    "report strips": (
        ("report strips RL=made/rl SFT=made/sft -o strips.png", "the same clips by two models"),
    ),
    "report page": (
        (
            "report page study/ ours=scores.jsonl -o report.html",
            "all tables and figures on one page",
        ),
    ),
    "prepare": (
        (
            "prepare films/ -o data/clips --set speaker.network=none",
            "without a speaker network, which needs a download",
        ),
        (
            "prepare films/ -o data/clips --config prepare-paper --workers 8",
            "as Appendix B, on eight processes",
        ),
    ),
    "pack": (("pack data/clips -o shards/", "WebDataset shards of about 1 GB"),),
    "unpack": (("unpack shards/ -o data/clips", "back to a dataset"),),
    "merge": (("merge part-1 part-2 -o data/clips", "join the parts of `prepare --part`"),),
    "encode": (
        (
            "encode data/clips -o data/encoded --model tiny",
            "encode with the parts of the model tiny",
        ),
    ),
    "train codec": (("train codec tiny-codec", "the codec of the shipped model"),),
    "train ear": (("train ear tiny-ear", "the audio encoder of the shipped model"),),
    "train mouth": (
        (
            "train mouth tiny-mouth-native --resume auto",
            "the mouth network, resumed if interrupted",
        ),
    ),
    "train sft": (
        ("train sft tiny-tune", "fine-tune `tiny`"),
        (
            "train sft sft-paper --set run.directory=runs/mine --resume auto",
            "in another directory, resumed if interrupted",
        ),
    ),
    "train scratch": (("train scratch tiny-sft", "the generator of the shipped model"),),
    "train sync": (("train sync tiny-sync", "the network of the scorer sync-small"),),
    "train rl": (("train rl tiny-rl --set run.num_updates=16", "sixteen updates"),),
    "plan": (
        ("plan sft-paper --gpus 8", "memory, operations and hours on eight H100"),
        ("plan --generate models/flowportrait-7b", "which cards can generate with it"),
    ),
    "reproduce": (
        ("reproduce", "the whole system with the shipped model, in ten to fifteen minutes"),
        ("reproduce reproduce-tiny -o runs/again", "in another folder"),
    ),
    "convert": (
        (
            "convert bagel BAGEL-7B-MoT -o models/flowportrait-7b",
            "then: convert wan, convert whisper",
        ),
    ),
    "export": (("export models/flowportrait-7b -o BAGEL", "files in BAGEL's own format"),),
    "doctor": (
        ("doctor", "what can run here, and how to install the rest"),
        ("doctor --fix web judges", "install these two extras"),
    ),
    "list": (
        ("list models", "names with descriptions"),
        ("list scorers", "also units, ranges and requirements"),
    ),
    "samples": (("samples -o samples/", "pictures, a recording and a dataset to try things on"),),
    "config show": (
        ("config show sft-paper --set data.num_rows=8", "every setting of a run, as TOML"),
    ),
    "config defaults": (("config defaults rl", "the defaults of a reinforcement-learning recipe"),),
}
"""Examples by command, without the name of the program."""


def examples_of(command: str) -> list[Example]:
    """The examples of a command such as "study create"; none for one that is not in the table."""
    return [Example(f"flowportrait {line}", says) for line, says in EXAMPLES.get(command, ())]


def laid_out(app: typer.Typer) -> typer.Typer:
    """`app` with its commands grouped and with help in this project's layout."""
    app.info.cls = HelpGroup
    for name, info in _named(app):
        info.rich_help_panel = next(
            (group for group, names in GROUPS.items() if name in names), "Tools"
        )
    _dress(app)
    return app


def _named(
    app: typer.Typer,
) -> Iterator[tuple[str, typer.models.TyperInfo | typer.models.CommandInfo]]:
    """Commands and groups of the first level, including those of unnamed groups."""
    for info in app.registered_commands:
        yield _name_of(info), info
    for group in app.registered_groups:
        if group.name:
            yield group.name, group
        else:
            yield from _named(group.typer_instance)


def _name_of(info: typer.models.CommandInfo) -> str:
    return info.name or info.callback.__name__.replace("_", "-")


def _dress(app: typer.Typer, path: str = "") -> None:
    """Gives every command its own help and examples."""
    for info in app.registered_commands:
        info.cls = HelpCommand
        examples = examples_of(f"{path}{_name_of(info)}")
        info.epilog = "\n".join(f"# {one.says}\n{one.line}" for one in examples)
    for group in app.registered_groups:
        group.cls = HelpGroup if group.name else group.cls
        _dress(group.typer_instance, f"{path}{group.name} " if group.name else path)

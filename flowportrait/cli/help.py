"""The text of `--help`, in one plain layout for every command and for the reference pages."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

_WIDTH = range(60, 101)
_LONGEST_NAME = 30
_METAVARS = {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}

Row = tuple[str, str]
"""A name and its description."""


class HelpCommand(TyperCommand):
    """A command whose help uses this layout."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes usage, description, arguments, options and examples."""
        formatter.write(help_text(self, ctx.command_path))


class HelpGroup(TyperGroup):
    """A group of commands whose help uses this layout."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Shows the help when no arguments are given."""
        return super().parse_args(ctx, args or ["--help"])

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes usage, description, and the commands by group."""
        formatter.write(help_text(self, ctx.command_path))


def help_text(command: TyperCommand | TyperGroup, path: str, width: int | None = None) -> str:
    """The help of a command that is called by `path`; `width` is the terminal's by default."""
    width = width or min(max(shutil.get_terminal_size().columns, _WIDTH.start), _WIDTH.stop - 1)
    parts = [_wrapped(f"Usage: {usage(command, path)}", width), _filled(command.help or "", width)]
    if isinstance(command, TyperGroup):
        parts += [_section(title, rows, width) for title, rows in _groups(command)]
    else:
        parts.append(_section("Arguments", _arguments(command), width))
    parts.append(_section("Options", _options(command), width))
    if command.epilog:
        parts.append(f"{_bold('Examples:')}\n{textwrap.indent(command.epilog, '  ')}")
    elif isinstance(command, TyperGroup):
        parts.append(f"Run `{path} COMMAND --help` for the options of a command.")
    return "\n\n".join(part for part in parts if part) + "\n"


def usage(command: TyperCommand | TyperGroup, path: str) -> str:
    """The usage line of a command: required arguments and options first."""
    if isinstance(command, TyperGroup):
        return f"{path} COMMAND ..."
    options = [one for one in command.params if isinstance(one, TyperOption) and one.required]
    needed = [f"{min(one.opts, key=len)} {one.metavar or _kind(one)}" for one in options]
    given = [_argument(one) for one in command.params if isinstance(one, TyperArgument)]
    return " ".join([path, *given, *needed, "[OPTIONS]"])


def _groups(group: TyperGroup) -> list[tuple[str, list[Row]]]:
    """The commands of a group under the titles of their panels."""
    from flowportrait.cli.guide import GROUPS

    titled: dict[str, list[Row]] = {title: [] for title in GROUPS}
    order = [name for names in GROUPS.values() for name in names]
    for name in sorted(group.commands, key=lambda one: order.index(one) if one in order else -1):
        command = group.commands[name]
        title = getattr(command, "rich_help_panel", None)
        titled.setdefault(title if title in titled else "Commands", []).append(
            (name, (command.help or "").split("\n\n")[0])
        )
    return [(title, rows) for title, rows in titled.items() if rows]


def _arguments(command: TyperCommand) -> list[Row]:
    given = [one for one in command.params if isinstance(one, TyperArgument)]
    return [(_argument(one), f"{one.help or ''} {_choices(one)}".strip()) for one in given]


def _options(command: TyperCommand | TyperGroup) -> list[Row]:
    options = [one for one in command.params if isinstance(one, TyperOption) and not one.hidden]
    return [(_name(one), _said(one)) for one in options] + [("--help", "Show this and exit.")]


def _argument(argument: TyperArgument) -> str:
    """The name of an argument as in the usage line, in brackets if it is optional."""
    name = argument.metavar or argument.name.upper()
    if argument.nargs != 1 and not name.rstrip("]").endswith("..."):
        name += "..."
    if argument.required or name.startswith("["):
        return name
    return f"[{name}]"


def _name(option: TyperOption) -> str:
    """The names and value of an option, such as `-o, --out OUT.mp4`."""
    names = ", ".join(sorted(option.opts, key=len))
    if option.is_flag:
        return names
    return f"{names} {option.metavar or _kind(option)}"


def _kind(option: TyperOption) -> str:
    annotation = option.type_descriptor.annotation
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return _METAVARS.get(annotation, "VALUE")


def _choices(argument: TyperArgument) -> str:
    annotation = argument.type_descriptor.annotation
    if get_origin(annotation) is Literal:
        return f"[{', '.join(get_args(annotation))}]"
    return ""


def _said(option: TyperOption) -> str:
    """The text of an option: purpose, range and default."""
    facts = []
    if option.min is not None or option.max is not None:
        facts.append(_range(option.min, option.max))
    if option.required:
        facts.append("required")
    elif not _is_nothing(option.default) and option.show_default:
        default = option.default
        facts.append(f"default {default:g}" if isinstance(default, float) else f"default {default}")
    if option.multiple:
        facts.append("may be repeated")
    return " ".join([option.help or "", *([f"[{', '.join(facts)}]"] if facts else [])]).strip()


def _is_nothing(default: Any) -> bool:
    return default is None or default is False or default in ("", (), [])


def _range(low: float | None, high: float | None) -> str:
    """The numbers that an option takes, in words."""
    if low is None:
        return f"at most {high}"
    if high is not None and high < 2**31:
        return f"{low} to {high}"
    return f"at least {low}"


def _section(title: str, rows: Sequence[Row], width: int) -> str:
    if rows:
        return f"{_bold(f'{title}:')}\n{_table(rows, width)}"
    return ""


def _table(rows: Iterable[Row], width: int) -> str:
    """Two columns; a name that is too long for the first has a line of its own."""
    rows = list(rows)
    column = 2 + max((len(name) for name, _ in rows if len(name) <= _LONGEST_NAME), default=0)
    lines = []
    for name, said in rows:
        filled = textwrap.wrap(
            " ".join(said.split()), width - column - 2, break_on_hyphens=False
        ) or [""]
        if len(name) > _LONGEST_NAME:
            lines.append(f"  {name}")
            name = ""
        lines.append(f"  {name:<{column}}{filled[0]}".rstrip())
        lines += [f"  {'':<{column}}{line}" for line in filled[1:]]
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> str:
    lines = textwrap.wrap(text, width, subsequent_indent=" " * 7, break_on_hyphens=False)
    return "\n".join(lines)


def _filled(text: str, width: int) -> str:
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n\n".join(textwrap.fill(part, width, break_on_hyphens=False) for part in paragraphs)


def _bold(text: str) -> str:
    shown = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    if shown:
        return f"\033[1m{text}\033[0m"
    return text

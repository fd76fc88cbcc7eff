"""Prompts: Markdown files with a head that says their version and where they come from.

A folder of the user's own replaces the shipped one file by file; the digest of every text enters
the fingerprint of the scores it leads to.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from flowportrait.errors import ConfigError

PROMPTS_DIR = Path(__file__).parent / "prompts"
_FENCE = "---"


@dataclass(frozen=True)
class JudgePrompt:
    """One text to ask with. `source` says whether the paper prints it or it is this project's
    own.
    """

    name: str
    text: str
    version: str
    source: str

    @property
    def digest(self) -> str:
        """sha256 of the text as it is sent."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_prompt(name: str, folder: Path | None = None) -> JudgePrompt:
    """The prompt `name` of `folder`, or the shipped one where the folder has none. Raises
    ConfigError.
    """
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"prompts: no folder '{folder}'; give one with files such as {name}.md")
    own = folder / f"{name}.md" if folder else None
    path = own if own is not None and own.exists() else PROMPTS_DIR / f"{name}.md"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    head, body = _parted(text, path)
    if not body:
        raise ConfigError(f"{path}: contains no prompt; write it below the header")
    return JudgePrompt(
        name, body, version=head.get("version", ""), source=head.get("source", "the user's own")
    )


def prompt_names() -> list[str]:
    """The names of all shipped prompts, sorted."""
    return sorted(path.stem for path in PROMPTS_DIR.glob("*.md"))


def _parted(text: str, path: Path) -> tuple[dict[str, str], str]:
    """The head's `key: value` lines and the text below; a file without a head is all text."""
    lines = text.strip().splitlines()
    if not lines or lines[0] != _FENCE:
        return {}, text.strip()
    if _FENCE not in lines[1:]:
        raise ConfigError(f"{path}: the header is not closed; end it with a line '{_FENCE}'")
    end = lines.index(_FENCE, 1)
    pairs = (line.partition(":") for line in lines[1:end] if line.strip())
    return {key.strip(): value.strip() for key, _, value in pairs}, "\n".join(
        lines[end + 1 :]
    ).strip()

"""Names: every built-in loads, a wrong one names the nearest, other packages come in through entry
points.
"""

from importlib.metadata import EntryPoint

import pytest

from flowportrait import registry
from flowportrait.errors import ConfigError
from flowportrait.registry import LISTED, PartTable, find_model, name_hint, names_of

TABLES = [table for tables in LISTED.values() for table in tables]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind)
def test_every_name_loads(table):
    for name in table.names():
        assert isinstance(table.load(name), type)


def test_a_wrong_name_names_the_nearest():
    with pytest.raises(ConfigError, match="codec: no 'portrat'; did you mean 'portrait'"):
        registry.CODECS.load("portrat")


def test_hint_without_a_near_name():
    assert name_hint("zzz", ["b", "a"]) == "allowed: a, b"


def test_other_packages_add_parts_but_do_not_replace_ours(monkeypatch):
    table = PartTable("codec", {"ours": "pathlib:Path"})
    outside = [
        EntryPoint("theirs", "pathlib:PurePath", table.group),
        EntryPoint("ours", "os:sep", table.group),
    ]
    monkeypatch.setattr(
        registry, "_outside", lambda group, path: outside if group == table.group else []
    )
    assert table.names() == ["ours", "theirs"]
    assert table.load("theirs").__name__ == "PurePath" and table.load("ours").__name__ == "Path"


def test_models_are_found_by_name_and_by_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "MODELS_DIR", tmp_path / "shipped")
    own = tmp_path / "own"
    for directory in (tmp_path / "shipped" / "tiny", own):
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")
    assert names_of("models") == ["tiny"]
    assert find_model("tiny") == tmp_path / "shipped" / "tiny"
    assert find_model(own) == own
    with pytest.raises(ConfigError, match="comes with a clone of the repository"):
        find_model("tiny-sft")
    monkeypatch.chdir(tmp_path)
    own.rename("tiny-sft")
    assert find_model("tiny-sft").samefile(tmp_path / "tiny-sft")  # a user's own of that name
    own = tmp_path / "tiny-sft"
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        find_model("tinny")
    with pytest.raises(ConfigError, match="contains no config.json"):
        find_model(tmp_path)

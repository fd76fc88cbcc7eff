"""WebDataset shards: what is packed comes back, others can read it, and theirs are read."""

import io
import json
import tarfile
from importlib.util import find_spec

import pytest

from flowportrait import cli
from flowportrait.errors import DataError
from flowportrait.prepare.shards import pack, unpack
from flowportrait.records import ManifestRow, read_jsonl, write_jsonl


@pytest.fixture
def dataset(tmp_path):
    """Five clips, the contents of which nobody looks at."""
    root = tmp_path / "set"
    (root / "clips").mkdir(parents=True)
    facts = {"num_frames": 48, "fps": 24, "size_px": 64, "sample_rate_hz": 16000}
    rows = []
    for index in range(5):
        name = f"a.b-{index}"
        (root / "clips" / f"{name}.mp4").write_bytes(bytes([index]) * 700_000)
        rows.append(ManifestRow(id=name, video=f"clips/{name}.mp4", identity="x", **facts))
    write_jsonl(root / "manifest.jsonl", rows)
    return root


def test_what_is_packed_comes_back(dataset, tmp_path, capsys):
    shards, again = tmp_path / "shards", tmp_path / "again"
    assert cli.run(["pack", str(dataset), "-o", str(shards), "--shard-mb", "2"]) == 0
    assert capsys.readouterr().out == f"3 shards: {shards}\n"
    assert cli.run(["unpack", str(shards), "-o", str(again)]) == 0
    assert "5 clips, a prepared dataset: " in capsys.readouterr().out
    old, new = (list(read_jsonl(root / "manifest.jsonl", ManifestRow)) for root in (dataset, again))
    for before, after in zip(old, new, strict=True):
        assert before == after.model_copy(update={"video": before.video})
        assert (dataset / before.video).read_bytes() == (again / after.video).read_bytes()
    bytes_of = lambda: [path.read_bytes() for path in sorted(shards.iterdir())]  # noqa: E731
    first = bytes_of()
    pack(dataset, shards, 2_000_000)
    assert bytes_of() == first
    pack(dataset, shards, 10**9)
    assert len(bytes_of()) == 1


@pytest.mark.skipif(find_spec("webdataset") is None, reason="webdataset is not installed")
def test_webdataset_reads_it(dataset, tmp_path):
    import webdataset

    made = pack(dataset, tmp_path / "shards", 2_000_000)
    found = list(webdataset.WebDataset([str(path) for path in made], shardshuffle=False))
    assert [json.loads(sample["json"])["id"] for sample in found] == [f"a.b-{i}" for i in range(5)]
    assert all(sample["mp4"] == bytes([i]) * 700_000 for i, sample in enumerate(found))


def tar(path, **members):
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("_", "."))
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def test_shards_of_others_become_a_folder_of_videos(tmp_path):
    tar(tmp_path / "x.tar", a_mp4=b"1", a_json=b'{"caption": "hello"}', b_MOV=b"2", b_txt=b"3")
    assert unpack(tmp_path / "x.tar", tmp_path / "out") == (2, 0)
    assert sorted(path.name for path in (tmp_path / "out/clips").iterdir()) == [
        "x-a.mp4",
        "x-b.mov",
    ]
    assert not (tmp_path / "out/manifest.jsonl").exists()


def test_names_cannot_lead_out_of_the_folder(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        member = tarfile.TarInfo("../../evil.mp4")
        member.size = 1
        file.addfile(member, io.BytesIO(b"1"))
    assert unpack(tmp_path / "x.tar", tmp_path / "out") == (1, 0)
    assert [path.name for path in (tmp_path / "out/clips").iterdir()] == ["x-evil.mp4"]


def test_what_is_no_shard_or_no_dataset_is_one_line(dataset, tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match="bad.tar: cannot be read as a shard"):
        unpack(tmp_path / "bad.tar", tmp_path / "out")
    with pytest.raises(DataError, match="contains no shards; give a .tar file or a folder of them"):
        unpack(dataset, tmp_path / "new")
    with pytest.raises(DataError, match="set: is not empty"):
        unpack(tmp_path / "bad.tar", dataset)
    with pytest.raises(DataError, match="set: not empty and not a folder of shards"):
        pack(dataset, dataset, 10**9)
    (dataset / "clips/a.b-3.mp4").unlink()
    with pytest.raises(DataError, match="a.b-3.mp4: missing; prepare the dataset again"):
        pack(dataset, tmp_path / "shards", 10**9)
    assert not (tmp_path / "shards").exists()

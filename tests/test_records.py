"""Records: one JSON line each, version inside, a wrong line is named."""

import pytest

from flowportrait.errors import DataError, MissingDependency, require
from flowportrait.records import ManifestRow, read_jsonl, write_jsonl

ROW = ManifestRow(id="a", video="a.mp4", num_frames=48, fps=24, size_px=128, sample_rate_hz=16000)


def test_rows_come_back(tmp_path):
    rows = [ROW, ROW.model_copy(update={"id": "b", "split": "held_out", "text": "Grüße"})]
    write_jsonl(tmp_path / "m.jsonl", rows)
    assert list(read_jsonl(tmp_path / "m.jsonl", ManifestRow)) == rows
    assert rows[0].duration_s == 2.0


@pytest.mark.parametrize(
    "wrong", ["{", '{"id": "a"}', ROW.model_dump_json().replace('version":1', 'version":2')]
)
def test_a_wrong_line_is_named(tmp_path, wrong):
    path = tmp_path / "m.jsonl"
    path.write_text(ROW.model_dump_json() + "\n\n" + wrong + "\n")
    with pytest.raises(DataError, match=r"m\.jsonl:3: not a valid ManifestRow"):
        list(read_jsonl(path, ManifestRow))


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        list(read_jsonl(tmp_path / "none.jsonl", ManifestRow))


def test_a_missing_package_names_its_extra():
    assert require("json", extra="eval").dumps(1) == "1"
    with pytest.raises(
        MissingDependency, match=r"no_such_package: .*pip install 'flowportrait\[eval\]'"
    ):
        require("no_such_package", extra="eval")

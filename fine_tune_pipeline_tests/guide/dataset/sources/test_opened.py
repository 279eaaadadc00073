"""Rows of every type of source, the broken ones among them, and errors that say where."""

import gzip
import lzma
from functools import partial
from http.server import SimpleHTTPRequestHandler

import pytest
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import HfFileSystem, constants

from fine_tune_pipeline.guide.dataset.sources.files import MissingSource, UnreadableSource
from fine_tune_pipeline.guide.dataset.sources.opened import source_name
from fine_tune_pipeline.spec.sources import CsvSource, JsonlSource, SqlSource
from fine_tune_pipeline_tests.guide.dataset.hub import COMMIT, ID, hub
from fine_tune_pipeline_tests.guide.dataset.sources.reading import columns, open_at
from fine_tune_pipeline_tests.web import Quiet, web_server


def test_a_missing_file_is_named_with_its_field(tmp_path):
    with pytest.raises(MissingSource, match=r"dataset\.sources\[0\].*nothing\.jsonl"):
        open_at(tmp_path, JsonlSource(type="jsonl", path="nothing.jsonl"))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (JsonlSource(type="jsonl", path="/somewhere/else/rows.jsonl"), "jsonl:rows.jsonl"),
        (JsonlSource(type="jsonl", path="rows.jsonl", name="tickets"), "tickets"),
        (SqlSource(type="sql", url_variable="TEST_DATABASE", query="SELECT 1"), "sql:TEST_DATABASE"),
    ],
)
def test_a_source_is_named_by_type_and_place_but_never_by_a_whole_path(source, name):
    assert source_name(source) == name


def test_a_folder_gives_all_its_files_of_the_type_and_rows_say_which(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "b"}\n', encoding="utf-8")
    (tmp_path / "in" / "deep" / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "c"}\nbroken\n'))
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    (tmp_path / "in" / "notes.txt").write_text("not asked for", encoding="utf-8")
    rows = list(open_at(tmp_path, JsonlSource(type="jsonl", path="in")).rows())
    assert [row.place for row in rows] == ["a.jsonl, row 1", "b.jsonl, row 1", "deep/c.jsonl.gz, row 1", "deep/c.jsonl.gz, row 2"]
    assert [row.columns for row in rows] == [{"text": "a"}, {"text": "b"}, {"text": "c"}, None]


def test_a_glob_gives_what_it_matches_in_the_order_of_the_names(tmp_path):
    for name in ("2026-02.csv", "2026-01.csv", "2025-12.csv"):
        (tmp_path / name).write_text(f"text\n{name}\n", encoding="utf-8")
    assert columns(open_at(tmp_path, CsvSource(type="csv", path="2026-*.csv"))) == [{"text": "2026-01.csv"}, {"text": "2026-02.csv"}]


def test_the_names_of_files_do_not_count_but_their_contents_and_order_do(tmp_path):
    def digest(folder: str, **files: str) -> str:
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / f"{name}.jsonl").write_text(f'{{"text": "{text}"}}\n', encoding="utf-8")
        return open_at(tmp_path, JsonlSource(type="jsonl", path=folder)).sha256

    one = digest("one", a="x", b="y")
    assert digest("renamed", c="x", d="y") == one
    assert digest("turned", a="y", b="x") != one
    assert digest("changed", a="x", b="z") != one


def test_packed_and_plain_bytes_are_the_same_source(tmp_path):
    (tmp_path / "plain.jsonl").write_bytes(b'{"text": "a"}\n')
    (tmp_path / "packed.jsonl.xz").write_bytes(lzma.compress(b'{"text": "a"}\n'))
    plain, packed = (open_at(tmp_path, JsonlSource(type="jsonl", path=name)) for name in ("plain.jsonl", "packed.jsonl.xz"))
    assert plain.sha256 == packed.sha256
    assert columns(plain) == columns(packed)


def test_a_cut_off_archive_is_refused(tmp_path):
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(UnreadableSource, match=r"dataset\.sources\[0\] \(.*rows\.jsonl\.gz\): cannot be read"):
        open_at(tmp_path, JsonlSource(type="jsonl", path="rows.jsonl.gz"))


@pytest.mark.parametrize("path", ["nothing", "*.jsonl", "empty"])
def test_a_path_that_names_no_file_is_refused(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingSource, match=r"dataset\.sources\[0\].*holds no \*\.jsonl"):
        open_at(tmp_path, JsonlSource(type="jsonl", path=path))


def test_files_are_read_from_a_web_server(tmp_path):
    (tmp_path / "rows.csv").write_text("text\na\n", encoding="utf-8")
    with web_server(partial(FolderHandler, directory=str(tmp_path))) as url:
        assert columns(open_at(tmp_path, CsvSource(type="csv", path=f"{url}/rows.csv"))) == [{"text": "a"}]
        with pytest.raises(MissingSource, match="is not there"):
            open_at(tmp_path, CsvSource(type="csv", path=f"{url}/other.csv"))
    with pytest.raises((UnreadableSource, MissingSource), match=r"dataset\.sources\[0\]"):
        open_at(tmp_path, CsvSource(type="csv", path=f"{url}/rows.csv"))


def test_an_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(UnreadableSource, match=r"dataset\.sources\[0\]: nosuch:// cannot be opened"):
        open_at(tmp_path, JsonlSource(type="jsonl", path="nosuch://bucket/rows.jsonl"))


class FolderHandler(Quiet, SimpleHTTPRequestHandler):
    """Gives the files of a folder."""


def test_a_dataset_of_the_hub_is_read_at_its_commit(tmp_path, monkeypatch):
    files = {"data/a.jsonl": b'{"text": "a"}\n', "data/b.jsonl": b'{"text": "b"}\n', "README.md": b"# Tickets"}
    HfFileSystem.clear_instance_cache()
    with hub(files) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        source = JsonlSource(type="jsonl", path=f"hf://datasets/{ID}@{COMMIT}/data")
        assert columns(open_at(tmp_path, source)) == [{"text": "a"}, {"text": "b"}]
        with pytest.raises((MissingSource, UnreadableSource), match=r"dataset\.sources\[0\]"):
            open_at(tmp_path, JsonlSource(type="jsonl", path=f"hf://datasets/owner/other@{COMMIT}/data"))
    HfFileSystem.clear_instance_cache()


def test_a_file_whose_own_name_looks_like_a_glob_is_that_file(tmp_path):
    (tmp_path / "rows[1].jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    assert columns(open_at(tmp_path, JsonlSource(type="jsonl", path="rows[1].jsonl"))) == [{"text": "a"}]


def test_a_place_that_does_not_answer_is_not_said_to_be_empty(tmp_path, monkeypatch):
    def down(system: LocalFileSystem, path: str, **_: object) -> None:
        raise ConnectionError("the server is down")

    monkeypatch.setattr(LocalFileSystem, "info", down)
    with pytest.raises(UnreadableSource, match=r"dataset\.sources\[0\]: .*cannot be looked at \(ConnectionError: the server is down\)"):
        open_at(tmp_path, JsonlSource(type="jsonl", path="rows.jsonl"))


def test_a_file_that_may_not_be_read_is_refused_with_its_field(tmp_path, monkeypatch):
    def refuse(system: LocalFileSystem, path: str, **_: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    # The tests may run as a user whom no permission stops.
    monkeypatch.setattr(LocalFileSystem, "_open", refuse)
    with pytest.raises(
        UnreadableSource, match=r"dataset\.sources\[0\] \(.*rows\.jsonl\): may not be read .*let the user who runs this read it"
    ):
        open_at(tmp_path, JsonlSource(type="jsonl", path="rows.jsonl"))

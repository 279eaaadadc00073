"""Sources in buckets of Google and Azure, against servers that speak their protocols on this machine."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from fine_tune_pipeline.guide.dataset.sources.documents import collected_documents, opened_documents
from fine_tune_pipeline.guide.dataset.sources.files import MissingSource, UnreadableSource
from fine_tune_pipeline.guide.dataset.sources.opened import Opened, opened
from fine_tune_pipeline.spec.sources import DocumentSource, JsonlSource, Source
from fine_tune_pipeline_tests.guide.dataset.bucket_servers import Bucket, azure, google


@pytest.fixture(params=[google, azure], ids=["gs", "abfs"])
def bucket(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    with request.param() as found:
        yield found


def open_at(source: Source) -> Opened:
    return opened(source, locate=str, field="dataset.sources[0]")


def test_a_folder_of_a_bucket_gives_the_rows_of_its_files(bucket):
    bucket.put(a_jsonl=b'{"text": "a"}\nbroken\n', b_jsonl=b'{"text": "b"}\n', c_txt=b"not asked for")
    source = open_at(JsonlSource(type="jsonl", path=f"{bucket.url}/in"))
    assert [(row.place, row.columns) for row in source.rows()] == [
        ("a.jsonl, row 1", {"text": "a"}),
        ("a.jsonl, row 2", None),
        ("b.jsonl, row 1", {"text": "b"}),
    ]
    first = source.sha256
    bucket.put(b_jsonl=b'{"text": "changed"}\n')
    assert open_at(JsonlSource(type="jsonl", path=f"{bucket.url}/in")).sha256 != first


def test_documents_of_a_bucket_become_chunks(bucket, tmp_path: Path):
    bucket.put(a_md=b"# Fruit\n\nApples are red.\n")
    found = opened_documents(DocumentSource(path=f"{bucket.url}/in/*.md"), locate=str, field="dataset.documents[0]")
    assert collected_documents([found], tmp_path)["document_chunks"] == 1


@pytest.mark.parametrize("path", ["tickets/none.jsonl", "nobucket/a.jsonl"])
def test_what_is_not_in_the_bucket_is_named_with_its_field(bucket, path):
    with pytest.raises(MissingSource, match=rf"dataset\.sources\[0\]: {bucket.scheme}://{path} is not there"):
        open_at(JsonlSource(type="jsonl", path=f"{bucket.scheme}://{path}"))


@pytest.mark.parametrize(
    ("scheme", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gs"), ("abfs", "adlfs", "abfs"), ("az", "adlfs", "abfs")]
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, scheme, package, extra):
    known = import_module("fsspec.registry")._registry
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(known, scheme, raising=False)
    said = rf"dataset\.sources\[0\]: {scheme}:// needs the package {package}: pip install 'fine_tune_pipeline\[{extra}\]'"
    with pytest.raises(UnreadableSource, match=said):
        open_at(JsonlSource(type="jsonl", path=f"{scheme}://bucket/rows.jsonl"))

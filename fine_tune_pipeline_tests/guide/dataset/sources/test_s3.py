"""Sources in a bucket, against a server that speaks S3's protocol on this machine."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fine_tune_pipeline.guide.dataset.sources.documents import collected_documents, opened_documents
from fine_tune_pipeline.guide.dataset.sources.files import MissingSource, UnreadableSource
from fine_tune_pipeline.guide.dataset.sources.opened import Opened, opened
from fine_tune_pipeline.spec.sources import DocumentSource, JsonlSource, ParquetSource, Source, WhatsAppSource
from fine_tune_pipeline_tests.guide.dataset.bucket_servers import amazon

pytest.importorskip("s3fs", reason="needs fine_tune_pipeline[s3]")
moto = pytest.importorskip("moto.server", reason="needs moto[s3]")


@pytest.fixture
def bucket() -> Iterator["moto.ThreadedMotoServer"]:
    """A bucket `tickets`; the server that holds it."""
    with amazon() as server:
        yield server


def put(**contents: bytes) -> None:
    """`name_ending=content` is the object `tickets/in/name.ending`."""
    from s3fs import S3FileSystem

    for name, content in contents.items():
        S3FileSystem().pipe(f"tickets/in/{name.replace('_', '.')}", content)


def open_at(source: Source) -> Opened:
    return opened(source, locate=str, field="dataset.sources[0]")


@pytest.mark.usefixtures("bucket")
def test_a_folder_of_a_bucket_gives_the_rows_of_its_files():
    put(a_jsonl=b'{"text": "a"}\nbroken\n', b_jsonl=b'{"text": "b"}\n', c_txt=b"not asked for")
    source = open_at(JsonlSource(type="jsonl", path="s3://tickets/in"))
    assert [(row.place, row.columns) for row in source.rows()] == [
        ("a.jsonl, row 1", {"text": "a"}),
        ("a.jsonl, row 2", None),
        ("b.jsonl, row 1", {"text": "b"}),
    ]
    first = source.sha256
    put(b_jsonl=b'{"text": "changed"}\n')
    assert open_at(JsonlSource(type="jsonl", path="s3://tickets/in")).sha256 != first


@pytest.mark.usefixtures("bucket")
def test_documents_of_a_bucket_become_chunks(tmp_path: Path):
    put(a_md=b"# Fruit\n\nApples are red.\n")
    found = opened_documents(DocumentSource(path="s3://tickets/in/*.md"), locate=str, field="dataset.documents[0]")
    assert collected_documents([found], tmp_path)["document_chunks"] == 1


@pytest.mark.usefixtures("bucket")
def test_an_archive_of_a_chat_is_read_where_it_lies():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_chat.txt", "[31/12/23, 10:00:00] Ann: Open?\n[31/12/23, 10:01:00] Shop: Yes.\n")
    put(chat_zip=packed.getvalue())
    [row] = open_at(WhatsAppSource(type="whatsapp", path="s3://tickets/in/chat.zip", us=["Shop"])).rows()
    assert row.place == "chat.zip/_chat.txt, row 1"
    assert [one["content"] for one in row.columns["messages"]] == ["Open?", "Yes."]


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("path", ["s3://tickets/none.jsonl", "s3://nobucket/a.jsonl"])
def test_what_is_not_in_the_bucket_is_named_with_its_field(path: str):
    with pytest.raises(MissingSource, match=rf"dataset\.sources\[0\]: {path} is not there"):
        open_at(JsonlSource(type="jsonl", path=path))


def test_a_server_that_is_down_is_said_with_the_field_and_without_the_key(bucket: "moto.ThreadedMotoServer"):
    bucket.stop()
    with pytest.raises(
        UnreadableSource, match=r"dataset\.sources\[0\]: s3://tickets/in cannot be looked at \(EndpointConnectionError"
    ) as error:
        open_at(ParquetSource(type="parquet", path="s3://tickets/in"))
    assert "hunter2" not in str(error.value)


@pytest.mark.usefixtures("bucket")
def test_missing_keys_are_said_with_the_field(monkeypatch: pytest.MonkeyPatch):
    from s3fs import S3FileSystem

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(UnreadableSource, match=r"dataset\.sources\[0\]: s3://tickets/in cannot be looked at \(NoCredentialsError"):
        open_at(JsonlSource(type="jsonl", path="s3://tickets/in"))

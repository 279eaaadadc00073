"""Looks in buckets, against servers that speak their protocols on this machine."""

from collections.abc import Iterator

import httpx
import pytest

from fine_tune_pipeline.artifacts.looks import Looks
from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline_tests.guide.dataset.bucket_servers import azure, google

ITEMS = [f"question {number}" for number in range(50)]


@pytest.fixture(params=["s3", "gs", "abfs"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A bucket that a server holds."""
    if request.param == "s3":
        yield from _s3()
        return
    with (google if request.param == "gs" else azure)() as bucket:
        yield bucket.url


def _s3() -> Iterator[str]:
    s3fs = pytest.importorskip("s3fs", reason="needs fine_tune_pipeline[s3]")
    moto = pytest.importorskip("moto.server", reason="needs moto[s3]")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    httpx.post(f"{address}/moto-api/reset").raise_for_status()
    names = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("tickets")
        yield "s3://tickets"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


class Late(Looks):
    """Lists the bucket, and then another machine is faster, once."""

    def _create(self, number: int, record: dict[str, object]) -> None:
        if number == 2:
            super()._create(2, {**record, "look": "of another machine"})
        super()._create(number, record)


def test_each_look_has_its_own_number_in_a_bucket_too(url: str):
    looks = Store.at(f"{url}/store").looks
    assert [looks.take(ITEMS, at_what=what, use_case="triage").number for what in ("a", "b", "a")] == [1, 2, 1]
    assert looks.next(ITEMS).number == 3


# The emulator of Google's protocol knows no preconditions.
@pytest.mark.parametrize("url", ["s3", "abfs"], indirect=True)
def test_who_comes_second_to_a_place_takes_the_next(url: str):
    looks = Late(Store.at(f"{url}/store").looks.root)
    assert [looks.take(ITEMS, at_what=what, use_case="triage").number for what in ("a", "b")] == [1, 3]

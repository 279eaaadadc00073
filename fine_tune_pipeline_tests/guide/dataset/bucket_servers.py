"""Servers that speak the protocols of S3, Google Cloud Storage and Azure Blob Storage, on this machine only."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

AZURITE = shutil.which("azurite-blob")
"""Microsoft's own emulator: npm install -g azurite"""

_BUCKET = "tickets"
# The emulator's published account: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
_ACCOUNT, _KEY = "devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Bucket:
    """The bucket `tickets` of a server."""

    def __init__(self, scheme: str, system: Any, stop: Any) -> None:
        self.url = f"{scheme}://{_BUCKET}"
        self.scheme = scheme
        self.stop = stop
        self._system = system

    def put(self, **contents: bytes) -> None:
        """`name_ending=content` is the object `in/name.ending`."""
        for name, content in contents.items():
            self._system.pipe(f"{_BUCKET}/in/{name.replace('_', '.')}", content)


@contextmanager
def amazon() -> Iterator[Any]:
    """A bucket `tickets`; the server that holds it."""
    s3fs = pytest.importorskip("s3fs", reason="needs fine_tune_pipeline[s3]")
    moto = pytest.importorskip("moto.server", reason="needs moto[s3]")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # All servers of a process have their buckets in common.
    httpx.post(f"http://{host}:{port}/moto-api/reset", timeout=60).raise_for_status()
    access = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**access, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(_BUCKET)
        try:
            yield server
        finally:
            server.stop()
            s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def google() -> Iterator[Bucket]:
    # Else it asks by gRPC, which the server does not speak, what kind of bucket it is, and waits a minute for the answer.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs = pytest.importorskip("gcsfs", reason="needs fine_tune_pipeline[gs]")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator")
    server = emulator.create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    host, port = server._api._httpd.socket.getsockname()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
        gcsfs.GCSFileSystem.clear_instance_cache()
        system = gcsfs.GCSFileSystem()
        system.mkdir(_BUCKET)
        try:
            yield Bucket("gs", system, server.stop)
        finally:
            server.stop()
            gcsfs.GCSFileSystem.clear_instance_cache()


@contextmanager
def azure() -> Iterator[Bucket]:
    adlfs = pytest.importorskip("adlfs", reason="needs fine_tune_pipeline[abfs]")
    if AZURITE is None:
        pytest.skip("needs azurite-blob: npm install -g azurite")
    options = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen([AZURITE, *options], stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout is not None
        said = next(filter(None, (re.search(r"listens on (http://\S+)", line) for line in server.stdout)))
        endpoint = f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};BlobEndpoint={said[1]}/{_ACCOUNT};"
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", endpoint)
        adlfs.AzureBlobFileSystem.clear_instance_cache()
        system = adlfs.AzureBlobFileSystem()
        system.mkdir(_BUCKET)

        def stop() -> None:
            server.terminate()
            server.wait()

        try:
            yield Bucket("abfs", system, stop)
        finally:
            stop()
            adlfs.AzureBlobFileSystem.clear_instance_cache()

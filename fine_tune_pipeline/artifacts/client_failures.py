"""What the clients of some protocols raise that is no OSError: a server that is not reached, keys that are missing."""

from collections.abc import Iterable
from importlib import import_module

_BY_PROTOCOL = {
    "http": (("aiohttp", "ClientError"),),
    "s3": (("botocore.exceptions", "BotoCoreError"),),
    "gs": (("aiohttp", "ClientError"), ("gcsfs.retry", "HttpError"), ("google.auth.exceptions", "GoogleAuthError")),
    "abfs": (("aiohttp", "ClientError"), ("azure.core.exceptions", "AzureError")),
}


def client_failures(protocols: Iterable[str]) -> tuple[type[Exception], ...]:
    """Those of a file system that answers to these names."""
    named = [failure for protocol in protocols for failure in _BY_PROTOCOL.get(protocol, ())]
    return tuple(getattr(import_module(module), name) for module, name in named)

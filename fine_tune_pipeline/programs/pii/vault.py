"""What stood where a stand-in stands, sealed: only the key that made the stand-ins opens it.

AES-SIV (RFC 5297) with a key that HKDF derives: the same value always gets the same seal, so equal data stays an equal artifact.
"""

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

_KEY_BYTES = 64


class WrongKey(ValueError):
    """The vault was not sealed with this key, or a line of it was changed."""


def sealed(given: Mapping[tuple[str, str], str], *, key: str) -> list[dict[str, str]]:
    """Lines of a vault, in the order of the stand-ins.

    Args:
        given: (stand-in, value) -> entity.
        key: of the stand-ins.
    """
    cipher = _cipher(key)
    return [
        {
            "stand_in": stand_in,
            "entity": entity,
            "sealed": base64.b64encode(cipher.encrypt(value.encode("utf-8"), [stand_in.encode("utf-8")])).decode("ascii"),
        }
        for (stand_in, value), entity in sorted(given.items())
    ]


def together(vaults: Iterable[Iterable[Mapping[str, str]]]) -> list[dict[str, str]]:
    """The lines of several vaults of one key, each once."""
    lines = {(row["stand_in"], row["sealed"]): dict(row) for vault in vaults for row in vault}
    return [lines[name] for name in sorted(lines)]


def opened(rows: Iterable[Mapping[str, str]], *, key: str) -> dict[str, list[str]]:
    """Stand-in -> the values that it stands for: mostly one, several where two values got the same.

    Raises:
        WrongKey: names the first line that does not open.
    """
    from cryptography.exceptions import InvalidTag

    cipher = _cipher(key)
    found: dict[str, list[str]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        try:
            value = cipher.decrypt(base64.b64decode(row["sealed"]), [row["stand_in"].encode("utf-8")]).decode("utf-8")
        except (InvalidTag, KeyError, ValueError) as error:
            raise WrongKey(f"line {number} of the vault does not open: it was sealed with another key, or changed since") from error
        if value not in found[row["stand_in"]]:
            found[row["stand_in"]].append(value)
    return dict(found)


def _cipher(key: str) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESSIV(HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=b"vault of stand-ins").derive(key.encode("utf-8")))

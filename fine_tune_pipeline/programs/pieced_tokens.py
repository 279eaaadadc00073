"""Special tokens that no single text spells, but several texts one after the other would: a name that ends with `<end_of`, say, before a
text that begins with `_turn>`, in a chat template that writes nothing between the two."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def pieced_token(texts: Sequence[str], *, tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """A special token that begins at the end of one text, goes on over whole ones, and ends at the beginning of another; None if none does.

    Args:
        texts: none of which holds a special token. White space around them does not count: templates trim.
    """
    begun, ended = _parts(tokenizer)
    stripped = {text.strip() for text in texts} - {""}
    if not begun or len(stripped) < 2:
        return None
    longest = max(map(len, begun))
    heads = {tail: tokens for text in stripped for tail in _ends(text, longest) if (tokens := begun.get(tail))}
    tails = {head for text in stripped for head in _begins(text, longest) if head in ended}
    if not heads or not tails:
        return None
    inner = {text for text in stripped if len(text) < longest}
    return next((token for head, tokens in heads.items() for token in tokens if _completed(token[len(head) :], tails, inner)), None)


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, the keys too: templates write those out as well."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def _completed(rest: str, tails: Collection[str], inner: Iterable[str]) -> bool:
    """Whether the rest of a token is a beginning of some text, behind any number of whole texts."""
    return rest in tails or any(rest.startswith(text) and _completed(rest[len(text) :], tails, inner) for text in inner)


def _ends(text: str, longest: int) -> Iterator[str]:
    return (text[-length:] for length in range(1, min(longest, len(text)) + 1))


def _begins(text: str, longest: int) -> Iterator[str]:
    return (text[:length] for length in range(1, min(longest, len(text)) + 1))


@lru_cache(maxsize=8)
def _parts(tokenizer: "PreTrainedTokenizerBase") -> tuple[dict[str, list[str]], set[str]]:
    """Beginning -> the special tokens that begin so, and all ends of these."""
    begun: dict[str, list[str]] = {}
    ended: set[str] = set()
    for token in sorted({str(added) for added in tokenizer.added_tokens_decoder.values() if added.special}):
        for place in range(1, len(token)):
            begun.setdefault(token[:place], []).append(token)
            ended.add(token[place:])
    return begun, ended

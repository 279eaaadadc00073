"""Whether context words can raise the score of a finding, told from the tokens alone where that is certain.

Presidio compares context words with lemmas, and lemmas need a tagger. A token's lemma is one of few, whatever the tagger says, so that most
findings are decided without it: none of the possible lemmas near by holds a context word, or all of those of one token do.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from presidio_analyzer.context_aware_enhancers import LemmaContextAwareEnhancer
from spacy.language import Language
from spacy.pipeline import AttributeRuler, Lemmatizer
from spacy.tokens import Doc

Decided = Literal["yes", "no", "unknown"]

_SETS_NO_LEMMA = {"tok2vec", "tagger", "parser", "ner", "senter", "sentencizer"}


class Tokens(NamedTuple):
    """Of one text: the words, and where each ends."""

    words: list[str]
    ends: list[int]
    colons: bool
    """Whether a colon stands inside of a token: Presidio makes keywords of the parts then."""


class Lemmas(Protocol):
    """Gives every lemma that a token may get, in small letters."""

    def __call__(self, token: str) -> frozenset[str]: ...


class ContextBounds:
    """Of one pipeline and one enhancer. `lemmas` knows the pipeline; None: nothing can be told without running it."""

    def __init__(self, nlp: Language, enhancer: LemmaContextAwareEnhancer) -> None:
        self._nlp = nlp
        self._before = enhancer.context_prefix_count + 1
        self._after = enhancer.context_suffix_count + 1
        self._substring = enhancer.context_matching_mode == "substring"
        self._lemmas = possible_lemmas(nlp)
        self._known: dict[str, tuple[frozenset[str], Decided]] = {}

    def tokens(self, doc: Doc) -> Tokens:
        """A text's tokens."""
        words = [token.text for token in doc]
        return Tokens(words, [token.idx + len(token) for token in doc], any(":" in word and len(word) > 1 for word in words))

    def raised(self, tokens: Tokens, start: int, words: Sequence[str]) -> Decided:
        """Whether the score of a finding at this place is raised by one of the context words."""
        place = bisect_right(tokens.ends, start)
        if self._lemmas is None or place == len(tokens.ends):
            return "unknown"
        ways = ((range(place, -1, -1), self._before), (range(place, len(tokens.ends)), self._after))
        lowered = [word.lower() for word in words]
        if self._substring and any(self._certain(tokens, way, count, lowered) for way, count in ways):
            return "yes"
        return "unknown" if any(self._possible(tokens, way, count, lowered) for way, count in ways) else "no"

    def _certain(self, tokens: Tokens, way: Iterable[int], count: int, words: Sequence[str]) -> bool:
        """Whether a keyword holds a context word even if all that may be keywords before it are."""
        for place in way:
            lemmas, keyword = self._of(tokens.words[place])
            if keyword == "yes" and all(_holds(lemma, words) for lemma in lemmas):
                return True
            count -= keyword != "no" or tokens.colons
            if count <= 0:
                return False
        return False

    def _possible(self, tokens: Tokens, way: Iterable[int], count: int, words: Sequence[str]) -> bool:
        """Whether any lemma may hold a context word if only certain keywords count."""
        for place in way:
            lemmas, keyword = self._of(tokens.words[place])
            if any(_holds(lemma, words) for lemma in lemmas):
                return True
            count -= keyword == "yes"
            if count <= 0:
                return False
        return False

    def _of(self, token: str) -> tuple[frozenset[str], Decided]:
        """The lemmas that a token may get, and whether Presidio takes it for a keyword."""
        if token not in self._known:
            assert self._lemmas is not None
            lemmas = self._lemmas(token)
            keywords = [self._is_keyword(lemma) for lemma in lemmas]
            decided: Decided = "no" if not any(keywords) else "unknown"
            self._known[token] = lemmas, ("yes" if all(keywords) and lemmas and ":" not in "".join(lemmas) else decided)
        return self._known[token]

    def _is_keyword(self, lemma: str) -> bool:
        lexeme = self._nlp.vocab[lemma]
        return not lexeme.is_stop and not lexeme.is_punct and lemma not in ("-pron-", "be")


def possible_lemmas(nlp: Language) -> Lemmas | None:
    """The lemmas that the pipeline's tokens may get; None if it has parts of which that is not known."""
    rest = {name: factory for name, factory in nlp.pipe_factories.items() if name in nlp.pipe_names and factory not in _SETS_NO_LEMMA}
    pipes = [nlp.get_pipe(name) for name in rest]
    if set(rest.values()) - {"attribute_ruler", "lemmatizer"} or len(pipes) != len(set(rest.values())):
        return None
    ruled = [_ruled(pipe) for pipe in pipes if isinstance(pipe, AttributeRuler)]
    formed = [_formed(pipe) for pipe in pipes if isinstance(pipe, Lemmatizer)]
    parts = [*ruled, *formed]
    if any(part is None for part in parts) or len(parts) != len(pipes):
        return None
    certain = [part for part in parts if part is not None]
    # Without a lemmatizer a lemma is empty.
    base = frozenset[str]() if formed else frozenset({""})
    return lambda token: base.union(*(part(token) for part in certain))


def _ruled(ruler: AttributeRuler) -> Lemmas | None:
    """Lemmas that the ruler may give to words, by what their small letters must be."""
    by_word: dict[str, set[str]] = {}
    by_form: list[tuple[re.Pattern[str], str]] = []
    for lemma, token in _lemma_rules(ruler):
        if token is None:
            return None
        match token.get("LOWER"):
            case str(word):
                by_word.setdefault(word, set()).add(lemma)
            case {"IN": list(words)}:
                for word in words:
                    by_word.setdefault(word, set()).add(lemma)
            case {"REGEX": str(form)}:
                by_form.append((re.compile(form), lemma))
            case _:
                return None

    def lemmas(token: str) -> frozenset[str]:
        word = token.lower()
        return frozenset(by_word.get(word, ())).union(lemma for form, lemma in by_form if form.search(word))

    return lemmas


def _lemma_rules(ruler: AttributeRuler) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Every lemma that the ruler gives, with what is asked of the token that gets it; None: it cannot be told which token that is."""
    for rule in ruler.patterns:
        lemma = rule["attrs"].get("LEMMA")
        for tokens in rule["patterns"] if lemma is not None else ():
            yield lemma.lower(), None if any("OP" in token for token in tokens) else tokens[rule["index"]]


def _formed(lemmatizer: Lemmatizer) -> Lemmas | None:
    """Every lemma that the lemmatizer's tables hold for a word, of whatever part of speech."""
    table = {name: lemmatizer.lookups.get_table(name) for name in lemmatizer.lookups.tables}
    if lemmatizer.mode == "lookup" and set(table) <= {"lemma_lookup"}:
        listed = table.get("lemma_lookup", {})
        return lambda token: frozenset({str(listed.get(token, token)).lower()})
    if lemmatizer.mode != "rule":
        return None
    rules = [(old, new) for pairs in table.get("lemma_rules", {}).values() for old, new in pairs]
    exceptions = list(table.get("lemma_exc", {}).values())

    def lemmas(token: str) -> frozenset[str]:
        word = token.lower()
        forms = {word[: len(word) - len(old)] + new for old, new in rules if word.endswith(old)}
        return frozenset(form.lower() for form in (word, *forms, *(form for listed in exceptions for form in listed.get(word, ()))) if form)

    return lemmas


def _holds(lemma: str, words: Sequence[str]) -> bool:
    return any(word in lemma for word in words)

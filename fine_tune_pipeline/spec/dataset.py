"""Section `dataset` (step 3): where examples come from and what happens to them."""

from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from fine_tune_pipeline.spec.base import Section
from fine_tune_pipeline.spec.more import MoreSpec
from fine_tune_pipeline.spec.pii_adapt import AdaptSpec
from fine_tune_pipeline.spec.pii_detectors import PiiDetector, RuleGroup
from fine_tune_pipeline.spec.sources import DocumentSource, FileSource, Source


class FormatSpec(Section):
    """How an example is shown to the model."""

    style: Literal["plain", "chat"] = Field(default="plain", description="chat needs a tokenizer with a chat template.")
    instruction: str | None = Field(
        default=None, description="Shown to systems that have not been trained; made from goal and task if not given."
    )
    context: Literal["none", "retrieved"] = Field(
        default="none",
        exclude_if=lambda wanted: wanted == "none",
        description="retrieved: the model is trained and asked with passages of dataset.documents, or of training rows if there are none, "
        "that are like the prompt; the endpoint looks them up too.",
    )
    passages: int = Field(
        default=2,
        ge=1,
        le=32,
        exclude_if=lambda wanted: wanted == 2,
        description="So many with context: retrieved; fewer where they would not fit into the base model's context.",
    )


Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$", description="ISO 639-1, such as en.")]

CleanRule = Literal[
    "other_language", "repetition", "refusal", "too_short", "too_long",
    "mojibake", "unicode_form", "invisible_characters", "html", "mail_footer", "whitespace", "boilerplate", "label_disagrees",
]  # fmt: skip


class CleanSpec(Section):
    """What is refused or mended before anything else looks at the text."""

    min_characters: int = Field(default=3, ge=1)
    max_characters: int = Field(default=2000, ge=1)
    languages: list[Language] = Field(default=[], description="Languages that prompts may be in (ISO 639-1, such as en); any by default.")
    near_duplicate_jaccard: float = Field(
        default=0.7, gt=0, le=1, description="Similarity of 5-character shingles from which two prompts are one."
    )
    semantic_duplicates: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Cosine of sentence embeddings from which two prompts mean the same, such as 0.95; not looked at by default. "
        "Time grows with the square of the rows: for up to about 100,000.",
    )
    semantic_action: Literal["mark", "remove"] = Field(
        default="mark",
        description="mark: reviewers see them; remove: the quarantine takes those with the same answer, the others are marked.",
    )
    skip: list[CleanRule] = Field(
        default=[], description="Rules that refuse nothing, repairs that mend nothing, marks that are not made here."
    )


class PiiSpec(Section):
    """How personal data is taken out."""

    operator: Literal["type_tag", "mask", "hash", "pseudonym", "remove"] = Field(
        default="type_tag",
        description="type_tag: <PERSON>; mask: *** ***; hash: <PERSON:…>, the same for the same value; pseudonym: another value, "
        "the same for the same value; remove: the quarantine takes the row. hash and pseudonym need FINE_TUNE_PIPELINE_PII_KEY.",
    )
    operators: dict[str, Literal["type_tag", "mask", "hash", "pseudonym"]] = Field(
        default={}, description="Another operator for an entity, such as {PERSON: pseudonym}."
    )
    entities: list[str] = Field(
        default=["CREDIT_CARD", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "LOCATION", "PERSON", "PHONE_NUMBER", "SECRET", "US_SSN"],
        description="Presidio entity names; SECRET: keys, tokens and passwords.",
    )
    score: float = Field(default=0.4, ge=0, le=1, description="Findings below this score are left.")
    vault: bool = Field(
        default=False, description="Keep what hashes and pseudonyms stand for beside the examples, sealed with the same key, for unscrub."
    )
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default={}, description="Another score for an entity, such as {PERSON: 0.6}."
    )
    deny: dict[str, list[Annotated[str, Field(min_length=1)]]] = Field(
        default={}, description="Entity -> values that are always taken out, whatever their case, such as {PROJECT: [Blue Heron]}."
    )
    allow: list[str] = Field(default=[], description="Findings that are one of these values, whatever its case, are left.")
    countries: list[Annotated[str, Field(pattern=r"^[A-Z]{2}$")]] = Field(
        default=[],
        description="ISO 3166 codes, such as [GB, IN]: their telephone numbers, and their national identifiers beside `entities`. "
        "By default telephone numbers of US, GB, DE, FR, IL, IN, CA and BR.",
    )
    # Not part of what this section says of a result: the asset `pii_ner_adapt` is, by its fingerprint.
    adapt: AdaptSpec | None = Field(
        default=None, exclude=True, description="Train the packaged NER further, also on texts of your own; not by default."
    )
    detectors: list[PiiDetector] = Field(default=[], description="Further detectors; what any of them finds is taken out.")
    skip: list[RuleGroup] = Field(default=[], description="Rules that are not used beside Presidio and the model.")
    residue_limit: float = Field(
        default=0.0, ge=0, le=1, description="Share of rows that may still hold a checkable identifier afterwards."
    )

    @model_validator(mode="after")
    def sealable(self) -> Self:
        if self.vault and not {self.operator, *self.operators.values()} & {"hash", "pseudonym"}:
            raise ValueError(f"vault: operator {self.operator} cannot be undone; want hash or pseudonym, or no vault")
        return self

    @field_validator("countries", mode="before")
    @classmethod
    def norway(cls, countries: object) -> object:
        # YAML 1.1 reads the code of Norway as `false`.
        return ["NO" if country is False else country for country in countries] if isinstance(countries, list) else countries

    @model_validator(mode="after")
    def agreed(self) -> "PiiSpec":
        allowed = {value.casefold() for value in self.allow}
        both = sorted(value for values in self.deny.values() for value in values if value.casefold() in allowed)
        if both:
            raise ValueError(f"got {both[0]!r} in deny and in allow; want it in one of them")
        return self


ReviewFormat = Literal["jsonl", "csv", "xlsx", "html", "label_studio", "mlflow"]


class ReviewSpec(Section):
    """Who looks at the examples before they are used."""

    policy: Literal["auto_accept", "experts"] = Field(
        default="experts", description="experts: a hand-out waits for verdicts; auto_accept: nobody looks, and every report says so."
    )
    share: float = Field(
        default=0.05, gt=0, le=1, description="Share of all examples that experts see at random, beside all that a step marked."
    )
    per_class: int = Field(
        default=20, ge=0, description="Experts see so many examples of each class, of different clusters; 0: classes play no part."
    )
    double_share: float = Field(
        default=0.1, ge=0, le=1, description="Share of what experts see that two of them judge, for their agreement."
    )
    most: int | None = Field(
        default=None, ge=1,
        description="Experts see at most so many, the most urgent first, a fifth at random; marked examples beyond go to the quarantine. "
        "No limit by default.",
    )  # fmt: skip
    formats: list[ReviewFormat] = Field(
        default=["jsonl", "csv", "xlsx", "html"],
        description="How examples are handed out: files, or `mlflow`, a review queue in MLflow. Verdicts are read in any format.",
    )
    reviewers: list[str] = Field(default=[], description="Names for MLflow: a queue for each; one queue for all by default.")


class SplitSpec(Section):
    """How examples are divided; an example keeps its side when data grows."""

    validation: float = Field(default=0.15, gt=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1, description="Ignored when `held_out` sources are given; then it must be left out.")
    seed: int = 0
    shared_words: int | None = Field(
        default=8,
        ge=5,
        description="So many words in a row of a user's own text, and two prompts belong on one side; null: only near duplicates do. "
        "Boilerplate that stands in many rows, and what the template says, do not count.",
    )


class BenchmarkSpec(Section):
    """Texts that the tuned model will be judged on elsewhere, so that training must not see them."""

    type: Literal["jsonl", "json", "csv", "parquet", "excel"]
    path: str = Field(description="As of a source.")
    name: str | None = Field(default=None, description="Shown in the data card; the type and place by default.")
    text: str = Field(default="{{ text }}", description="Template of the text to look for, over the row's columns.")
    records: str | None = Field(default=None, description="As of a json source.")
    delimiter: str | None = Field(default=None, description="As of a csv source.")
    encoding: str | None = Field(default=None, description="As of a csv source.")
    sheet: str | None = Field(default=None, description="As of an excel source.")

    @model_validator(mode="after")
    def a_source(self) -> Self:
        try:
            self.source()
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            field = str(wrong["loc"][-1])
            if wrong["type"] == "extra_forbidden":
                raise ValueError(f"{field}: a {self.type} file has no such field; leave it out") from error
            raise ValueError(f"{field}: {wrong['msg'].removeprefix('Value error, ')}") from error
        return self

    def source(self) -> FileSource:
        """The same as a source whose prompt is the text."""
        given = self.model_dump(exclude={"text"}, exclude_none=True)
        return _FILE_SOURCE.validate_python({**given, "prompt": self.text, "completion": ""})


_FILE_SOURCE: TypeAdapter[FileSource] = TypeAdapter(Annotated[FileSource, Field(discriminator="type")])


class DatasetSpec(Section):
    """Sources of examples, and the rules that they pass through."""

    sources: list[Source] = Field(min_length=1)
    held_out: list[Source] = Field(default=[], description="Sources of the test set, kept apart from all training; else it is split off.")
    documents: list[DocumentSource] = Field(
        default=[], description="What examples can be made from and answers be looked up in; kept apart from the examples."
    )
    benchmarks: list[BenchmarkSpec] = Field(default=[], description="Rows that are like one of these texts are not trained on.")
    minimum_examples: int = Field(default=100, ge=10)
    minimum_per_class: int = Field(default=5, ge=1, description="Training rows that each label of the task needs.")
    format: FormatSpec = FormatSpec()
    clean: CleanSpec = CleanSpec()
    pii: PiiSpec = PiiSpec()
    review: ReviewSpec = ReviewSpec()
    split: SplitSpec = SplitSpec()
    feedback: bool = Field(default=True, description="Take reviewed corrections from the endpoint's traffic log as further examples.")
    more: MoreSpec | None = Field(default=None, description="Rows labelled by rules, and made ones; none by default.")

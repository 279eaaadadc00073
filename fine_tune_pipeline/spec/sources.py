"""Part of section `dataset`: where examples and documents come from, and how a row becomes an example."""

import codecs
import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from fine_tune_pipeline.spec.base import Section

_PINNED = re.compile(r"hf://datasets/[^/@]+/[^/@]+@[0-9a-f]{40}(/|$)")

Layout = Literal["columns", "messages", "sharegpt", "alpaca", "prompt_completion", "preference"]
Turns = Literal["last", "all"]

LAYOUT_COLUMNS = {
    "messages": ("messages", "tools"),
    "sharegpt": ("conversations", "system", "tools"),
    "alpaca": ("instruction", "input", "output", "system"),
    "prompt_completion": ("prompt", "completion", "tools"),
    "preference": ("prompt", "chosen", "rejected", "tools"),
}
"""What each training format calls its columns."""

_ONE_ANSWER = ("columns", "alpaca", "preference")


class Taken(Section):
    """What every source of examples says: what it is called, what is taken of it, and on which terms."""

    name: str | None = Field(default=None, description="Shown as the example's source; the type and place by default.")
    turns: Turns = Field(default="last", description="Which answers of a conversation are learnt from.")
    metadata: list[str] = Field(default=[], description="Columns kept beside the example, for slices.")
    licence: str | None = Field(default=None, description="Terms under which you hold this data; shown in the data card.")
    sample: int | None = Field(default=None, ge=1, description="Take this many rows, chosen by seed; all by default.")


class Columns(Taken):
    """How a row becomes an example. Templates are sandboxed Jinja over the row's columns."""

    prompt: str = Field(default="{{ prompt }}", description="Template of what the model is given.")
    completion: str = Field(default="{{ completion }}", description="Template of the right answer.")
    layout: Layout = Field(
        default="columns",
        description="columns: by the templates. Or a training format, which needs none: messages (OpenAI chat), sharegpt, alpaca, "
        "prompt_completion, preference.",
    )
    columns: dict[str, str] = Field(default={}, description="Your names of the layout's columns, such as {messages: dialogue}.")

    @model_validator(mode="after")
    def read_one_way(self) -> Self:
        given = self.model_fields_set
        if self.layout != "columns" and (templates := given & {"prompt", "completion"}):
            raise ValueError(
                f"got layout: {self.layout} and a template for {' and '.join(sorted(templates))}; want one of them, since the layout "
                "says where both are"
            )
        known = LAYOUT_COLUMNS.get(self.layout, ())
        if unknown := sorted(set(self.columns) - set(known)):
            wanted = f"those of the layout: {', '.join(known)}" if known else "none without a layout: the templates name the columns"
            raise ValueError(f"columns: got {unknown[0]}, want {wanted}")
        if "turns" in given and self.layout in _ONE_ANSWER:
            raise ValueError(f"turns: layout: {self.layout} has one answer a row; leave turns away")
        return self


class Files(Section):
    """Files: one, a folder (all files of the kind below it), or a glob; each may be gzip, bzip2 or xz."""

    path: str = Field(
        description="File, folder or glob, relative to the YAML file; or a URL that fsspec knows (s3://, gs://, abfs://, https://). "
        "Of the Hugging Face Hub: hf://datasets/owner/name@commit/file."
    )

    @field_validator("path")
    @classmethod
    def pinned(cls, path: str) -> str:
        if path.startswith("hf://") and not _PINNED.match(path):
            raise ValueError(
                f"got {path!r}, want hf://datasets/owner/name@commit/file with the 40 hexadecimal digits of a commit: "
                "what a branch or tag names can change"
            )
        return path


class FileColumns(Files, Columns):
    """Rows of files: of one, of a folder (all files of this type below it), or of a glob; each may be gzip, bzip2 or xz."""


class JsonlSource(FileColumns):
    """JSON Lines: one object a line."""

    type: Literal["jsonl"]


class JsonSource(FileColumns):
    """A JSON file that holds a list of objects."""

    type: Literal["json"]
    records: str | None = Field(default=None, description="Key of the list, dotted if it lies deeper; by default the file is the list.")


class CsvSource(FileColumns):
    """CSV with a header."""

    type: Literal["csv"]
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = Field(default="utf-8", description="Name of the character encoding, as Python knows it.")

    @field_validator("encoding")
    @classmethod
    def known(cls, encoding: str) -> str:
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise ValueError(f"got {encoding!r}, want an encoding such as utf-8, cp1252 or utf-16") from error
        return encoding


class ParquetSource(FileColumns):
    """Parquet files."""

    type: Literal["parquet"]


class ExcelSource(FileColumns):
    """An .xlsx workbook: the first row of a sheet that is not empty names the columns."""

    type: Literal["excel"]
    sheet: str | None = Field(default=None, description="Name of the sheet; the first one by default.")


FileSource = JsonlSource | JsonSource | CsvSource | ParquetSource | ExcelSource


class SqlSource(Columns):
    """Rows of a query, through SQLAlchemy."""

    type: Literal["sql"]
    url_variable: str = Field(description="Name of the environment variable that holds the database URL; never the URL itself.")
    query: str
    parameters: dict[str, str | int | float | bool] = Field(default={}, description="Values of the query's `:names`; never pasted into it.")


class ChatExport(Files, Taken):
    """Conversations as a chat program exports them. Metadata may be `started` (date and time) and `channel`."""

    # A conversation of an export is a row of this training format.
    layout: ClassVar[Layout] = "messages"
    columns: ClassVar[dict[str, str]] = {}
    prompt: ClassVar[str] = ""
    completion: ClassVar[str] = ""

    turns: Turns = Field(default="all", description="Which answers of a conversation are learnt from.")
    us: list[str] = Field(
        default=[],
        description="Who answers, by name or id: what they say is learnt from, all others are the user. Must be given; if it is not, the "
        "error lists who takes part.",
    )
    pause_hours: float = Field(
        default=24, gt=0, description="A longer silence ends a conversation; 24 is the window in which WhatsApp lets a business answer."
    )
    most_turns: int = Field(
        default=50, ge=2, description="From so many turns on, the next one of the user begins a new conversation, so that none has no end."
    )


class SlackSource(ChatExport):
    """A Slack export, as a folder or .zip: `users.json`, and a folder for each channel with a file for each day."""

    type: Literal["slack"]


class TeamsSource(ChatExport):
    """Messages of Microsoft Teams as Microsoft Graph gives them: .json files of `chatMessage` lists or pages, or a .zip of them."""

    type: Literal["teams"]


class WhatsAppSource(ChatExport):
    """Chats that WhatsApp exported, as .txt or .zip, from Android or iOS."""

    type: Literal["whatsapp"]
    date_order: Literal["dmy", "mdy", "ymd"] | None = Field(
        default=None, description="Order of day, month and year, where the dates themselves do not show it."
    )


ChatSource = SlackSource | TeamsSource | WhatsAppSource

Source = Annotated[FileSource | SqlSource | ChatSource, Field(discriminator="type")]


class DocumentSource(Files):
    """Documents: PDF, DOCX, PPTX, HTML, Markdown, text, e-mail (.eml, .mbox). They become chunks, never training rows by themselves."""

    name: str | None = Field(default=None, description="Shown as the chunks' source; the place by default.")
    licence: str | None = Field(default=None, description="Terms under which you hold these documents; shown in the data card.")
    chunk_characters: int = Field(default=1500, ge=100, le=100_000, description="The most characters of a piece.")
    overlap_characters: int = Field(default=150, ge=0, description="So many of them the next chunk repeats, from a sentence on.")
    max_megabytes: float = Field(default=50, gt=0, description="A larger document, or message of an mbox, is left out and said.")

    @model_validator(mode="after")
    def room_left(self) -> Self:
        if 2 * self.overlap_characters >= self.chunk_characters:
            raise ValueError(
                f"overlap_characters: got {self.overlap_characters}, want less than half of chunk_characters, {self.chunk_characters}"
            )
        return self

"""What is said of rows as tokens: lengths, labelled share, and pieces that are learned or only read."""

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fine_tune_pipeline.programs.preflight_requests import Piece
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.shown_rows import part_tokens, pieces, preview
from fine_tune_pipeline.programs.training.batches import Row, tokenised
from fine_tune_pipeline_tests.tiny import EOS, tiny_tokenizer

CHAT = PromptFormat(style="chat")

SCRIPTS = "我的卡被扣了两次 مرحبا بالعالم שלום क्षमा ไทย 👩‍👩‍👧🇩🇪 é"


def row(prompt: str, completion: str, *, tokenizer: PreTrainedTokenizerBase, format: PromptFormat, loss_on: str = "completion") -> Row:
    example = {"id": "a", "prompt": prompt, "completion": completion}
    return tokenised(example, tokenizer=tokenizer, format=format, loss_on=loss_on)  # type: ignore[arg-type]


def told(found: tuple[Piece, ...]) -> list[tuple[str, bool, bool]]:
    return [(piece.text, piece.learned, piece.special) for piece in found]


def test_a_plain_row_is_read_up_to_its_answer_and_learned_from_there():
    tokenizer = tiny_tokenizer()
    found = pieces(row("my card", "lost_card", tokenizer=tokenizer, format=PromptFormat()), tokenizer=tokenizer)
    assert told(found) == [
        ("<bos>", False, True), ("Input: my card\nOutput:", False, False), (" lost_card", True, False), ("<eos>", True, True),
    ]  # fmt: skip


def test_a_special_token_is_told_from_the_same_characters_typed_by_a_person():
    tokenizer = tiny_tokenizer()
    found = pieces(row("say <eos>", "<eos>", tokenizer=tokenizer, format=PromptFormat()), tokenizer=tokenizer)
    assert told(found)[1:] == [("Input: say <eos>\nOutput:", False, False), (" <eos>", True, False), ("<eos>", True, True)]


def test_turns_of_a_chat_are_seen_and_neighbouring_special_tokens_stay_apart():
    tokenizer = tiny_tokenizer(chat=True)
    found = pieces(row("my card", "lost_card", tokenizer=tokenizer, format=CHAT), tokenizer=tokenizer)
    assert [piece.text for piece in found if piece.special] == [
        "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_turn>", "<end_of_turn>",
    ]  # fmt: skip
    assert [piece.text for piece in found if piece.learned] == ["lost_card", "<end_of_turn>"]


@pytest.mark.parametrize("loss_on", ["completion", "all"])
@pytest.mark.parametrize("format", [PromptFormat(), CHAT], ids=["plain", "chat"])
def test_pieces_are_the_whole_row_in_any_script(format: PromptFormat, loss_on: str):
    tokenizer = tiny_tokenizer(chat=True)
    given = row(SCRIPTS, SCRIPTS, tokenizer=tokenizer, format=format, loss_on=loss_on)
    found = pieces(given, tokenizer=tokenizer)
    assert "".join(piece.text for piece in found) == tokenizer.decode(given.input_ids)
    assert sum(piece.tokens for piece in found) == len(given.input_ids)
    assert sum(piece.tokens for piece in found if piece.learned) == given.labelled
    assert "\ufffd" not in "".join(piece.text for piece in found)


def test_a_character_that_is_learned_by_half_is_shown_once_and_as_learned():
    tokenizer = tiny_tokenizer()
    ids = tokenizer("a漢b", add_special_tokens=False)["input_ids"]
    assert len(ids) == 5, "three bytes, none of them joined"
    found = pieces(Row("a", ids, [-100, -100, *ids[2:]], 2), tokenizer=tokenizer)
    assert [(piece.text, piece.tokens, piece.learned) for piece in found] == [("a", 1, False), ("漢b", 4, True)]


def test_a_decoder_that_drops_the_first_space_does_not_take_it_from_the_answer():
    words = {"<s>": 0, "</s>": 1, "▁no": 2, "▁yes": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    assert fast.decode([3]) == "yes", "on its own the space is gone"
    found = pieces(Row("a", [0, 2, 3, 1], [-100, -100, 3, 1], 2), tokenizer=fast)
    assert told(found)[1:] == [(" no", False, False), (" yes", True, False), ("</s>", True, True)]


def test_the_share_of_labels_is_counted_and_the_lowest_rows_are_named():
    rows = [Row(str(size), [7] * size, [-100] * (size - 2) + [7, EOS], size - 2) for size in (4, 20, 10, 40, 5)]
    found = part_tokens("train", rows, max_length=19)
    assert (found.labelled, found.lengths["whole"].total) == (10, 79)
    assert [(least.id, least.labelled, least.tokens) for least in found.least_labelled] == [("40", 2, 40), ("20", 2, 20), ("10", 2, 10)]
    assert [(long.id, long.tokens) for long in found.long_rows] == [("20", 20), ("40", 40)]
    assert found.over_long == 2


def test_the_shortest_the_middle_and_the_longest_row_are_shown_and_of_one_row_that_one():
    tokenizer = tiny_tokenizer()
    rows = [row("word " * size, "yes", tokenizer=tokenizer, format=PromptFormat()) for size in (5, 1, 3, 2, 4)]
    assert [shown.tokens for shown in preview(rows, tokenizer=tokenizer)] == sorted(len(row.input_ids) for row in rows)[::2]
    assert len(preview(rows[:1], tokenizer=tokenizer)) == 1

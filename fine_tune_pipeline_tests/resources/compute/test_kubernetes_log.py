"""Lines of a log that comes in pieces: each once, whatever breaks."""

from fine_tune_pipeline.resources.compute.kubernetes_log import Lines


def line(second: int, said: str, fraction: int = 1, zone: str = "Z") -> bytes:
    return f"2026-11-27T10:00:{second:02d}.{fraction:09d}{zone} {said}\n".encode()


def told(*streams: list[bytes], whole: bool = True) -> str:
    lines = Lines()
    for pieces in streams:
        lines.begin()
        for piece in pieces:
            lines.take(piece)
    if whole:
        lines.end()
    return lines.output.tail()


def test_a_stream_that_goes_on_after_another_repeats_nothing():
    first = [line(1, "one"), line(2, "two"), line(2, "three", 2)]
    again = [line(2, "two"), line(2, "three", 2), line(3, "four")]
    assert told(first, again) == "one\ntwo\nthree\nfour\n"


def test_lines_that_the_program_itself_repeats_stay():
    same = line(2, "loss 0.1")
    assert told([same, same], [same, same, same]) == "loss 0.1\n" * 3


def test_lines_that_stand_a_little_out_of_order_are_all_taken():
    assert (
        told([line(2, "late", 9), line(2, "early", 3)], [line(2, "late", 9), line(2, "early", 3), line(2, "last", 9)])
        == "late\nearly\nlast\n"
    )


def test_a_line_that_broke_off_comes_whole():
    assert told([line(1, "one"), line(2, "half of this")[:-5]], [line(1, "one"), line(2, "half of this")]) == "one\nhalf of this\n"


def test_a_last_line_without_its_end_is_kept():
    assert told([line(1, "one"), line(2, "no end")[:-1]]) == "one\nno end"


def test_a_rotated_log_that_has_lost_its_beginning_goes_on():
    assert told([line(1, "one"), line(2, "two")], [line(7, "seven")]) == "one\ntwo\nseven\n"


def test_pieces_may_end_anywhere_even_in_a_letter():
    text = line(1, "Grüße, 東京")
    assert told([text[position : position + 1] for position in range(len(text))]) == "Grüße, 東京\n"


def test_what_the_node_says_without_a_time_is_kept():
    assert (
        told([line(1, "one"), b"failed to watch file: no space left on device\n"]) == "one\nfailed to watch file: no space left on device\n"
    )


def test_the_log_is_asked_for_from_its_last_second_in_the_zone_of_the_node():
    lines = Lines()
    assert lines.since is None
    lines.take(line(5, "one", zone="+02:00") + line(4, "before", zone="+02:00"))
    assert lines.since == "2026-11-27T10:00:05+02:00"

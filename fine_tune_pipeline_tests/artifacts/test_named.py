import pytest

from fine_tune_pipeline.artifacts.named import some


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "none"),
        (["a"], "a"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d"], "a, b, c, … (4 in all)"),
        (map(str, range(1204)), "0, 1, 2, … (1,204 in all)"),
    ],
)
def test_a_list_is_told_whole_or_cut_with_how_many_there_are(names, said):
    assert some(names, most=3) == said

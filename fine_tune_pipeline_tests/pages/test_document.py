from fine_tune_pipeline.pages.document import Page, Section, html, markdown, table


def page(*sections: Section) -> Page:
    return Page(title="T", advice="", about="", sections=sections)


def test_marks_in_a_cell_or_a_sentence_stay_text():
    section = table("S", [{"a": "x | y", "c": "<i>*_`"}], text="a <b> *c*")
    text = markdown(page(section))
    assert "| x \\| y | &lt;i>\\*\\_\\` |" in text
    assert "a &lt;b> \\*c\\*" in text
    assert "&lt;i&gt;*_`" in html(page(section))


def test_records_with_other_keys_keep_their_columns():
    assert "| 1 |  |\n|  | 2 |" in markdown(page(table("S", [{"a": 1}, {"b": 2}])))


def test_a_table_without_records_says_so():
    assert "Found by x. None." in markdown(page(table("S", [], text="Found by x.")))

import pytest

from fine_tune_pipeline.guide.base_model.licence_tags import contradiction, hub_tag, named_licence


@pytest.mark.parametrize(
    ("card", "named"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model", "apache-2.0"),
        ("---\r\nlicense: MIT\r\n---\r\n", "mit"),
        ("---\nlicense: gemma\nextra_gated_heading: Access Gemma\n---\n", "LicenseRef-Gemma-Terms"),
        ("---\nlicense: llama3.2\n---\n", "LicenseRef-Llama-3.2-Community"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "LicenseRef-Qwen-Research"),
        ("---\nlicense: other\nlicense_name: deepseek\n---\n", "LicenseRef-deepseek"),
        ("---\nlicense: other\n---\n", None),
        ("---\nlicense: unknown\n---\n", None),
        ("---\nlicense: [mit, apache-2.0]\n---\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\njust a line\n---\n", None),
        ("# No front matter\nlicense: mit", None),
    ],
)
def test_the_licence_that_a_card_names(card, named):
    assert named_licence(card) == named


@pytest.mark.parametrize(
    ("named", "written", "contradicts"),
    [
        ("apache-2.0", "Apache-2.0", False),
        (None, "MIT", False),
        ("LicenseRef-deepseek", "LicenseRef-DeepSeek-Model", False),
        ("cc-by-nc-4.0", "Apache-2.0", True),
        ("LicenseRef-Gemma-Terms", "Apache-2.0", True),
        ("LicenseRef-Gemma-Terms", "LicenseRef-Llama-3.2-Community", True),
        ("mit", "LicenseRef-Ours", True),
    ],
)
def test_other_terms_than_the_written_ones_are_a_contradiction(named, written, contradicts):
    said = contradiction(named, written)
    assert (said is not None) == contradicts
    if said:
        assert named in said
        assert written in said


@pytest.mark.parametrize(
    ("licence", "tag"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("LicenseRef-Gemma-Terms", "gemma"),
        ("LicenseRef-Llama-3.3-Community", "llama3.3"),
        ("LicenseRef-Qwen-Research", "other"),
        ("LicenseRef-deepseek", "other"),
    ],
)
def test_the_tag_of_the_hub_for_a_licence_is_read_back_as_it(licence, tag):
    assert hub_tag(licence) == tag
    name = f"license_name: {licence.removeprefix('LicenseRef-').lower()}\n" if tag == "other" else ""
    assert (named_licence(f"---\nlicense: {tag}\n{name}---\n") or "").lower() == licence.lower()

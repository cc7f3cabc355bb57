"""CITATION.cff says which version it is of, and templates of issues are what GitHub reads."""

from pathlib import Path

import pytest
import yaml

from megatron_stare import __version__

REPO = Path(__file__).parents[2]
TEMPLATES = sorted((REPO / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())

    assert str(citation["version"]) == __version__
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"]
    assert citation["title"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_has_what_a_form_needs(path):
    template = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert "blank_issues_enabled" in template
        return
    assert template["name"]
    assert template["description"]
    for part in template["body"]:
        assert part["type"] in {"textarea", "input", "checkboxes"}
        assert part["attributes"]["label"]

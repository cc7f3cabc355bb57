"""JSON that others wrote: read whole and unambiguous, or one error that names the file."""

from __future__ import annotations

import pytest

from megatron_stare.errors import UserError
from megatron_stare.system.json_file import read_json, read_object


def test_what_is_valid_is_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": {"a": [1, {"b": null}]}}')
    assert read_object(path, "a config") == {"a": {"a": [1, {"b": None}]}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"eos_token_id": 2, "a": 1, "eos_token_id": 3}', "'eos_token_id' stands twice"),
        ('[{"rope": {"theta": 1, "theta": 1}}]', "'theta' stands twice"),
        ("{" + '"a": {' * 9000, "too many levels"),
        ('{"a": 1}}', "Extra data"),
        ("", "Expecting value"),
    ],
    ids=["twice", "twice within", "deep", "more", "empty"],
)
def test_what_is_not_is_named(tmp_path, content, said):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"config\.json: not valid JSON \(.*{said}.*a config"):
        read_json(path, "a config")

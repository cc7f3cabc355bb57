"""YAML of a config: no key is lost, no value is another in secret, no text takes for ever."""

import time

import pytest

from megatron_stare.config.yaml_text import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("017", "017"),
        ("-017", "-017"),
        ("3:20", "3:20"),
        ("190:20:30.5", "190:20:30.5"),
        ("2026-11-29", "2026-11-29"),
        ("1e-6", "1e-6"),
        ("1.5e-6", 1.5e-6),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0b11", 3),
        ("-.inf", float("-inf")),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!int 5", 5),
        ("9" * 5000, "9" * 5000),
        ("[1, [a, ~]]", [1, ["a", None]]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)
def test_a_plain_value_is_what_every_reader_takes_it_for(text, value):
    found = read_yaml(text)
    assert found == value
    assert type(found) is type(value)


def test_merge_keys_and_aliases():
    text = "{x: &x {a: 1, b: 1}, y: &y {b: 2, c: 2}, both: {<<: [*x, *y], c: 3}, again: *x}"
    read = read_yaml(text)
    assert read["both"] == {"a": 1, "b": 1, "c": 3}
    read["again"]["a"] = 5
    assert read["x"] == {"a": 1, "b": 1}, "an alias is a value of its own"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"line 3: a stands twice, first in line 1"),
        ("a:\n  b: 1\n  'b': 1", r"line 3: a\.b stands twice, first in line 2"),
        ("x: [{a: {b: 1, b: 1}}]", r"x\.a\.b stands twice"),
        ("a: {<<: {b: 1}, <<: {c: 1}}", r"a\.<< stands twice"),
        ("on: 1", r"expected a name for a key, found True"),
        ("? [a]\n: 1", r"expected a name for a key, found \['a'\]"),
        ("a: *b", r"alias \*b has no anchor before it"),
        ("a: &a [*a]", r"alias \*a has no anchor before it"),
        ("<<: 1", r"<<: expected a mapping or a list of them, found 1"),
        ("a: !!python/object:os.system x", r"python/object:os\.system' is no type of a config"),
        ("a: !!set {b}", r"set' is no type of a config"),
        ("a: 1\n---\nb: 2", r"line 2: expected one document, found a second"),
        ("a: [", r"line \d: "),
        ("a: \x07", r"control characters are not allowed"),
        ('a: "\\ud800"', r"Unicode|UTF"),
    ],
)
def test_what_is_refused_names_the_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        read_yaml(text)
    assert "\n" not in str(error.value)


def _aliases_of(first: str, joined: str) -> str:
    levels = (f"a{i}: &a{i} {joined.format(','.join([f'*a{i - 1}'] * 9))}" for i in range(1, 12))
    return "\n".join([f"a0: &a0 {first}", *levels])


@pytest.mark.parametrize(
    "text",
    [
        _aliases_of("[x, x, x]", "[{}]"),
        _aliases_of("{x: x}", "{{y: [{}]}}"),
        "".join(f"token{i}: {i}\n" for i in range(60_000)),
        "{" + ", ".join(f'"token{i}": {i}' for i in range(60_000)) + "}",
        "x: " + "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
    ],
    ids=["lists", "mappings", "vocabulary", "JSON", "deep lists", "deep mappings", "deep blocks"],
)
def test_what_is_no_config_is_refused_after_its_first_thousands_of_values(text):
    start = time.process_time()
    with pytest.raises(ValueError, match=r"expected a config, found more than"):
        read_yaml(text)
    assert time.process_time() - start < 10, "these took minutes, or the machine's memory"


def test_merges_of_merges_do_not_grow():
    merged = read_yaml(_aliases_of("{x: 1}", "{{<<: [{}]}}"))
    assert merged["a11"] == {"x": 1}

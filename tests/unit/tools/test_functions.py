"""A user's functions and classes as tools."""

from __future__ import annotations

import pytest

from megatron_stare.config.tools import ToolsConfig
from megatron_stare.errors import UserError
from megatron_stare.tools.table import make_tools
from megatron_stare.tools.tool import Tool

OWN = "tests.unit.tools.own_tools"


def tool(name: str) -> Tool:
    [made] = make_tools(ToolsConfig(names=(f"{OWN}:{name}",))).values()
    made.start()
    return made


def test_a_function_is_a_tool_of_its_name():
    result = tool("shout").session().call({"text": "a", "times": 2}, 5)

    assert tool("shout").name == "shout"
    assert (result.text, result.ok, result.failure) == ("AA", True, None)


def test_what_is_no_text_is_json():
    assert tool("table").session().call({}, 5).text == '{"a": 1, "ü": [null]}'


def test_invalid_arguments_are_the_models_doing():
    result = tool("shout").session().call({"words": "a"}, 5)

    assert result.text == "argument text is missing\nthere is no argument words"
    assert (result.ok, result.failure) == (False, None)


def test_what_a_function_raises_is_told_to_the_model():
    result = tool("broken").session().call({"kind": "value"}, 5)

    assert (result.text, result.ok, result.failure) == ("ValueError: no such place", False, None)


def test_an_exit_is_raised_like_anything_else():
    assert tool("broken").session().call({"kind": "exit"}, 5).text == "SystemExit: no such place"


def test_what_the_system_said_is_a_failure():
    result = tool("broken").session().call({"kind": "os"}, 5)

    assert (result.ok, result.failure) == (False, "ConnectionError: no such place")


def test_a_function_that_does_not_return_is_a_failure():
    result = tool("slow").session().call({"seconds": 1}, 0.05)

    assert (result.ok, result.failure) == (False, "did not return within 0.05 s")


def test_a_tool_that_never_returns_is_not_asked_for_ever():
    stuck = tool("slow")
    for _ in range(64):
        stuck.session().call({"seconds": 3}, 0.001)

    assert stuck.session().call({"seconds": 0}, 5).failure == "64 calls before have not returned"


def test_a_class_has_an_object_for_each_sample():
    counter = tool("Counter")
    one, other = counter.session(), counter.session()

    assert [one.call({}, 5).text, one.call({"by": 5}, 5).text] == ["1", "6"]
    assert other.call({}, 5).text == "1"


def test_a_session_begins_where_calls_before_it_left_off():
    log = [{"by": 1}, {"by": -3}, {"by": 5}, {"by": "many"}]
    session = tool("Counter").session(log)

    assert [session.call({"by": 1}, 5).text, session.call({"by": 1}, 5).text] == ["7", "8"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{OWN}:missing", "cannot import .*:missing .AttributeError"),
        ("no.such:tool", "cannot import no.such:tool .ModuleNotFoundError"),
        (f"{OWN}:NUMBER", "NUMBER is no tool: it is int, expected a function"),
        (f"{OWN}:WithoutCall", "is no tool: it is a class without a method `call`"),
    ],
)
def test_what_is_no_tool_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        make_tools(ToolsConfig(names=(name,)))


def test_two_tools_of_one_name_are_refused():
    names = ("python", "tests.unit.tools.own_tools_too:python")
    with pytest.raises(UserError, match="is called 'python', as another one is"):
        make_tools(ToolsConfig(names=names))
    with pytest.raises(UserError, match="is called 'shout', as another one is"):
        make_tools(ToolsConfig(names=(f"{OWN}:shout", "tests.unit.tools.own_tools_too:shout")))

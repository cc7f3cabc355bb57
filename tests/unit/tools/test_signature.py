"""A function's schema is that of chat templates, and arguments are held to it."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field
from transformers.utils import get_json_schema

from megatron_stare.tools.signature import Signature


def weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> str:
    """
    Tells the weather
    of a place.

    Args:
        city: where it is asked for,
            with its country
        days: from today on

    Returns:
        What is expected.
    """
    return f"{city} {days} {unit}"


def test_the_schema_is_in_the_layout_of_chat_templates():
    assert Signature(weather, "weather").schema == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather of a place.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {
                        "type": "string",
                        "description": "where it is asked for, with its country",
                    },
                    "days": {
                        "type": "integer",
                        "default": 1,
                        "description": "from today on",
                    },
                    "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
                },
                "required": ["city"],
            },
        },
    }


def convert(amount: float, names: list[str]):
    """Converts an amount.

    Args:
        amount: of money
        names: of currencies
    """


def test_it_is_what_transformers_makes_of_the_same_function():
    ours, theirs = Signature(convert, "convert").schema, get_json_schema(convert)

    assert ours == theirs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "argument city is missing"),
        ({"city": 1}, "argument city: input should be a valid string, found 1"),
        ({"city": "Rome", "days": "soon"}, "argument days: input should be a valid integer"),
        ({"city": "Rome", "unit": "K"}, "argument unit: input should be 'C' or 'F', found 'K'"),
        ({"city": "Rome", "when": 1}, "there is no argument when"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        Signature(weather, "weather").check(arguments)


def test_right_ones_are_given_as_the_function_takes_them():
    assert Signature(weather, "weather").check({"city": "Rome", "days": 3.0}) == {
        "city": "Rome",
        "days": 3,
    }


def untyped(x): ...
def starred(*x: int): ...
def private(_x: int): ...
def unknown(x: NoSuchType): ...  # noqa: F821  # pyright: ignore
def foreign(x: Signature): ...
def bounded(x: Annotated[int, Field(ge=0, description="a count")]): ...
def positional(x: int, /): ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (untyped, "its argument x has no type"),
        (starred, r"it takes \*x: "),
        (private, "it takes _x: .*, expected a name that begins with a letter"),
        (unknown, "cannot be described in JSON: name 'NoSuchType' is not defined"),
        (foreign, "cannot be described in JSON"),
        (positional, "it takes x: "),
    ],
)
def test_a_function_that_cannot_be_described_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        Signature(function, function.__name__)


def test_annotations_may_say_more():
    signature = Signature(bounded, "bounded")
    properties = signature.schema["function"]["parameters"]["properties"]

    assert properties == {"x": {"type": "integer", "minimum": 0, "description": "a count"}}
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        signature.check({"x": -1})

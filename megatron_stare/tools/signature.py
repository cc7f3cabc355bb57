"""The JSON schema of a function, from its signature and docstring; and arguments checked by it."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUserError

_HEADING = re.compile(r"^(\w[\w ]*):$", re.MULTILINE)
_PARAMETER = re.compile(r"^(\w+)(?: *\([^)\n]*\))?: *(.*(?:\n+ +.*)*)", re.MULTILINE)
_MAX_SHOWN = 200


class Signature:
    """Of a function that a model calls, with keywords.

    Its docstring is Google's: the text before `Args:` describes the function, each line there an
    argument.

    Raises:
        ValueError: an argument has no annotation, or one that JSON has no type for.
    """

    def __init__(self, function: Callable[..., Any], name: str, *, is_method: bool = False) -> None:
        summary, described = _documentation(function)
        try:
            hints = get_type_hints(function, include_extras=True)
            parameters = list(inspect.signature(function).parameters.values())[is_method:]
            fields: dict[str, Any] = {
                parameter.name: _field(parameter, hints) for parameter in parameters
            }
            self._model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
            schema = self._model.model_json_schema()
        except (NameError, TypeError, PydanticUserError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"its arguments cannot be described in JSON: {reason}") from None
        properties: dict[str, Any] = {"type": "object", "properties": {}, **_untitled(schema)}
        del properties["additionalProperties"]  # Templates show it, and no model was told by it.
        for argument, text in described.items():
            if argument in properties["properties"]:
                properties["properties"][argument]["description"] = text
        self.schema: dict[str, Any] = {
            "type": "function",
            "function": {"name": name, "description": summary, "parameters": properties},
        }

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the function takes them, without those that have defaults.

        Raises:
            ValueError: what is wrong, for the model to read.
        """
        try:
            checked = self._model.model_validate(dict(arguments))
        except ValidationError as error:
            raise ValueError("\n".join(map(_explain, error.errors()[:5]))) from None
        return {name: getattr(checked, name) for name in checked.model_fields_set}


def _field(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> tuple[Any, Any]:
    """The type of an argument, and its default."""
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise ValueError(f"it takes {parameter}, expected arguments that have names")
    if parameter.name.startswith("_"):
        raise ValueError(f"it takes {parameter}, expected a name that begins with a letter")
    if parameter.name not in hints:
        raise ValueError(
            f"its argument {parameter.name} has no type, expected {parameter.name}: TYPE"
        )
    default = ... if parameter.default is parameter.empty else parameter.default
    return hints[parameter.name], default


def _documentation(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What a docstring says of the function, and of each argument."""
    text = inspect.getdoc(function) or ""
    parts = _HEADING.split(text)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    lines = textwrap.dedent(sections.get("Args", "").strip("\n"))
    arguments = {name: _joined(said) for name, said in _PARAMETER.findall(lines)}
    return _joined(parts[0]), arguments


def _joined(text: str) -> str:
    """On one line, but for paragraphs."""
    return "\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _untitled(schema: Any) -> Any:
    """Without the titles that pydantic gives, which repeat names."""
    if isinstance(schema, list):
        return [_untitled(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _untitled(part) for name, part in value.items()}
        if key in ("properties", "$defs")
        else _untitled(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


def _explain(problem: Any) -> str:
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"argument {place} is missing"
    if problem["type"] == "extra_forbidden":
        return f"there is no argument {place}"
    message = problem["msg"].removeprefix("Value error, ")
    found = repr(problem["input"])[:_MAX_SHOWN]
    return f"argument {place}: {message[:1].lower()}{message[1:]}, found {found}"

"""`megatron-stare tools`: list, schema, one call, and which walls work."""

from __future__ import annotations

import json

import pytest

from megatron_stare.cli import main
from megatron_stare.tools.sandbox.isolation import WALLS
from megatron_stare.tools.sandbox.pool import trouble_with


@pytest.fixture(scope="module")
def troubles():
    return {walls: trouble_with(walls) for walls in WALLS}


def said(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["tools", *arguments])
    return code, *capsys.readouterr()


def test_the_tools_are_listed(capsys):
    code, out, _ = said(capsys, 'tools.names=["tests.unit.tools.own_tools:shout"]')

    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "python",
        "calculator",
        "search",
        "shout",
    ]


def test_a_schema_is_that_of_the_call(capsys):
    _, out, _ = said(capsys, "calculator")

    assert json.loads(out)["function"]["parameters"]["required"] == ["expression"]


def test_a_call_is_answered(capsys):
    assert said(capsys, "calculator", "12*12") == (0, "144\n", "")


def test_arguments_may_be_json(capsys):
    call = json.dumps({"text": "a", "times": 3})

    assert said(capsys, "tests.unit.tools.own_tools:shout", call) == (0, "AAA\n", "")


def test_what_goes_wrong_in_a_call_shows(capsys):
    assert said(capsys, "calculator", "1/0") == (1, "ValueError: division by zero\n", "")


def test_code_runs_in_the_sandbox_of_a_config(capsys, troubles, tmp_path):
    [walls] = [walls for walls in WALLS if not troubles[walls]][:1]
    config = tmp_path / "run.yaml"
    config.write_text(f"train: {{steps: 3}}\ntools: {{sandbox: {walls}, packages: []}}\n")

    code, out, _ = said(capsys, "python", "import os; print(os.environ)", "--config", str(config))

    assert (code, out) == (0, "environ({})\n")


def test_the_check_tells_which_walls_work(capsys, troubles):
    code, out, _ = said(capsys, "--check")
    first = next((walls for walls in WALLS[:-1] if not troubles[walls]), None)

    assert code == (0 if first else 1)
    assert out.splitlines()[-1].split() == ["auto", *(["is", first] if first else ["refuses"])]
    for walls, line in zip(WALLS, out.splitlines(), strict=False):
        assert line.split()[0] == walls
        assert ("does not work" in line) == (troubles[walls] is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calculater"], "tools.names.0: expected one of python, calculator, search, or a"),
        (["no.such:tool"], "tools.names: cannot import no.such:tool"),
        (["search"], "tools: names has 'search' with search.corpus=null"),
        (["calculator", "{"], "tools: '{' is no JSON object"),
        (["calculator", '{"a":' * 9_000], "is no JSON object (maximum recursion depth"),
        (["tests.unit.tools.own_tools:table", "x"], "tools: table takes no argument"),
        (["python", "1", "tools.sandbox=docker"], "tools.sandbox: input should be 'auto'"),
        (["python", "1", "tools.sandbx=none"], "tools.sandbx: unknown key (value 'none'); did you"),
        (["python", "1", "more"], "override 'more': expected section.key=value"),
        (
            ["tests.unit.tools.own_tools:broken", "os"],
            "tools: broken failed: ConnectionError: no such place",
        ),
    ],
)
def test_what_is_wrong_is_one_line(capsys, arguments, message):
    code, out, err = said(capsys, *arguments)

    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1

"""A stateful interpreter: the calls of a sample are cells of one notebook."""

from __future__ import annotations

import pytest

from megatron_stare.config.tools import LimitsConfig, ToolsConfig
from megatron_stare.tools.python import PythonTool


@pytest.fixture(scope="module")
def tool(any_walls):
    limits = LimitsConfig(cpu_s=2, memory_mib=256)
    tool = PythonTool(ToolsConfig(sandbox=any_walls, stateful=True, packages=(), limits=limits))
    tool.start()
    yield tool
    tool.close()


def told(session, *cells: str) -> list[str]:
    return [session.call({"code": cell}, 5).text for cell in cells]


def test_a_cell_sees_what_those_before_defined(tool):
    assert told(tool.session(), "x = 3", "def f(y):\n    return x * y", "print(f(2))") == [
        "",
        "",
        "6\n",
    ]


def test_the_value_of_an_expression_at_the_end_is_shown(tool):
    assert told(tool.session(), "1 + 1", "'a'", "None", "x = 1; x", "print(2)") == [
        "2\n",
        "'a'\n",
        "",
        "1\n",
        "2\n",
    ]


def test_samples_see_nothing_of_each_other(tool):
    one, other = tool.session(), tool.session()
    one.call({"code": "x = 1"}, 5)

    assert "NameError" in other.call({"code": "x"}, 5).text


def test_what_a_cell_raises_is_told_once_and_what_it_did_before_stays(tool):
    raised, after = told(tool.session(), "x = 1\nprint(x)\n1/0", "print(x)")

    assert raised == (
        "1\n"
        "Traceback (most recent call last):\n"
        '  File "cell 1", line 3, in <module>\n'
        "    1/0\n"
        "    ~^~\n"
        "ZeroDivisionError: division by zero\n"
    )
    assert after == "1\n"


def test_a_cell_that_runs_into_a_limit_leaves_the_notebook_as_it_was(tool):
    session = tool.session()
    session.call({"code": "x = [1]"}, 5)
    late = session.call({"code": "x.append(2)\nimport time; time.sleep(9)"}, 0.5)

    assert late.text == "[the run was ended after 0.5 seconds]\n"
    assert (late.ok, late.failure) == (False, None)
    assert told(session, "x") == ["[1]\n"]


def test_randomness_goes_on_and_comes_again(tool):
    first = told(tool.session(), "import random; a = random.random(); a", "b = random.random(); b")

    assert first[0] != first[1]
    assert told(tool.session(), "import random; random.random()", "random.random()") == first


def test_files_are_there_for_later_cells(tool):
    assert told(tool.session(), "open('a', 'w').write('x')", "open('a').read()") == ["1\n", "'x'\n"]


def test_exit_ends_a_cell_alone(tool):
    assert told(tool.session(), "x = 1\nexit()", "x") == ["", "1\n"]


def test_a_session_begins_where_calls_before_it_left_off(tool):
    """Those that ran into a limit, or were none, left nothing."""
    log = [{"code": "x = 1"}, {"code": "x = 9\nimport os; os.abort()"}, {}, {"code": "x += 1"}]
    session = tool.session(log)

    assert told(session, "x", "x += 1", "x") == ["2\n", "", "3\n"]


def test_a_syntax_error_is_told(tool):
    [text] = told(tool.session(), "1 +")

    assert 'File "cell 1", line 1' in text
    assert "SyntaxError: invalid syntax" in text
    assert "_notebook" not in text

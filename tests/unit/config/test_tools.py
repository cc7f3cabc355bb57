"""The section `tools`: what is refused, and how it is said."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from megatron_stare.config.tools import ToolsConfig


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"names": ["pyhton"]}, "expected one of python, calculator, search, or a function or"),
        ({"names": ["python", "python"]}, "names has 'python' twice"),
        ({"names": ["search"]}, "names has 'search' with search.corpus=null"),
        ({"sandbox": "docker"}, "'bubblewrap', 'landlock'"),
        ({"sandbox": "sandbox_fusion"}, "a URL belongs to sandbox 'sandbox_fusion'"),
        ({"sandbox_fusion": {"url": "http://a:1"}}, "a URL belongs to sandbox 'sandbox_fusion'"),
        ({"sandbox_fusion": {"url": "a:1/run_code"}}, "expected scheme, host and port"),
        ({"packages": ["numpy.linalg"]}, "expected a package's name as it is imported"),
        ({"packages": ["-c"]}, "expected a package's name as it is imported"),
        ({"limits": {"cpu_s": 0}}, "greater than or equal to 1"),
        ({"limits": {"memory_mib": 1}}, "greater than or equal to 16"),
        ({"limits": {"time_s": 1}}, "Extra inputs"),
        ({"workers": True}, "expected a number, found true"),
        ({"deadline_s": 0}, "greater than or equal to 0.001"),
    ],
)
def test_what_is_wrong_is_named(section, message):
    with pytest.raises(ValidationError, match=message):
        ToolsConfig.model_validate(section)


def test_names_may_be_ones_own():
    assert ToolsConfig(names=("python", "my.tools:lookup")).names == ("python", "my.tools:lookup")

"""Weights by disk: what is checked before, after, and what remains."""

from __future__ import annotations

import httpx
import pytest

from megatron_stare.errors import UserError
from tests.models import hf_tensors, make_hf_folder
from tests.sglang.servers import needs_servers
from tests.sglang.test_engine import open_engine

pytestmark = needs_servers


def test_only_the_last_version_is_kept_and_none_after_the_run(servers, model, tmp_path):
    with open_engine(servers, model, tmp_path) as (engine, _):
        for version in (1, 2, 3):
            engine.update_weights(hf_tensors(model).items(), version)
        assert [path.name for path in (tmp_path / "weights").iterdir()] == ["version_000003"]
        for url in servers.urls:
            assert httpx.get(f"{url}/model_info").json()["weight_version"] == "3"
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(servers, model, tmp_path):
    (tmp_path / "weights").write_text("a file, not a folder")
    with (
        open_engine(servers, model, tmp_path) as (engine, _),
        pytest.raises(UserError, match=r"rollout\.servers\.weights_dir: cannot write"),
    ):
        engine.update_weights(hf_tensors(model).items(), 1)


def test_servers_of_another_network_are_refused_at_the_start(servers, tmp_path):
    other = make_hf_folder(tmp_path / "other", "llama")
    with (
        pytest.raises(UserError, match=r"type 'qwen3' .*expected 'llama'"),
        open_engine(servers, other, tmp_path),
    ):
        pass


def test_a_url_where_nothing_answers_is_named(servers, model, tmp_path):
    with (
        pytest.raises(UserError, match=r"http://127\.0\.0\.1:9: no SGLang server answered"),
        open_engine(servers, model, tmp_path, ["http://127.0.0.1:9"], start_deadline_s=1.5),
    ):
        pass

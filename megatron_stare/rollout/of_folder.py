"""Sampling from a Hugging Face folder: problems, engine and verifier of commands without a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from megatron_stare.config.data import DataConfig
from megatron_stare.config.evaluation import FolderConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.data.sources import in_turn
from megatron_stare.engines.engine import Engine
from megatron_stare.engines.opening import open_engine
from megatron_stare.engines.replay import ReplayEngine
from megatron_stare.launch.topology import read_topology
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.questions import open_questions
from megatron_stare.types import Prompt
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.load import hf_weights


@dataclass(frozen=True, slots=True)
class FolderRollouts:
    """What samples come from, and who judges them; `player` is the engine, or plays turns on it.

    sets      problems by key, and by source
    versions  of what else samples depend on: code of environments, packages that make problems
    """

    sets: dict[str, dict[str, PromptSet]]
    engine: Engine
    player: Engine
    scorer: Scorer
    versions: dict[str, str]

    def problems(self, key: str) -> list[Prompt]:
        """All that stand under a key, the sources in turn."""
        return in_turn(self.sets[key])


class Asked(NamedTuple):
    """Problems, and the most tokens that a response to them may have."""

    data: DataConfig
    max_response_tokens: int


@contextmanager
def open_folder_rollouts(
    config: FolderConfig,
    asked: Mapping[str, Asked],
    *,
    report: Callable[[str], None],
    version: int = 0,
) -> Iterator[FolderRollouts]:
    """An engine with the folder's weights, as this version, beside problems and verifiers.

    Args:
        asked: at least one, by the key that names them.

    Raises:
        UserError: bad input.
    """
    shape, data = read_hf_config(config.model.path), {key: one.data for key, one in asked.items()}
    longest = {key: one.max_response_tokens for key, one in asked.items()}
    with ExitStack() as stack:
        questions = open_questions(config, data, shape, stack, longest=longest, report=report)
        scorer = Scorer(
            *(config.reward, data),
            max_response_tokens=max(longest.values()),
            prefill=questions.prefill,
            report=report,
        )
        stack.enter_context(scorer)
        engine = open_engine(
            *(config.rollout, config.model, questions.tokenizer),
            stop_ids=questions.stop_ids,
            vocab_size=shape.vocab_size,
            device=read_topology().device,
            run_dir=config.run.dir,
            report=report,
        )
        player: Engine = engine
        if not isinstance(engine, ReplayEngine):  # What was recorded are whole episodes.
            player = questions.player_on(engine, config.workflow, report)
        stack.callback(player.close)
        weights = () if isinstance(engine, ReplayEngine) else hf_weights(config.model.path)
        engine.update_weights(weights, version)
        yield FolderRollouts(questions.sets, engine, player, scorer, questions.versions)

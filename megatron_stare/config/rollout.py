"""Generation: sampling, servers, how a batch is collected."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from megatron_stare.config.gains import TurnGainsConfig
from megatron_stare.config.workflow import TurnsConfig
from megatron_stare.system.settings import Settings
from megatron_stare.system.values import (
    BatchCount,
    Count,
    CountOrZero,
    FilePath,
    Host,
    RankCount,
    Seconds,
    Share,
    VariableName,
    expand,
    is_server_url,
)

_MAX_SAMPLES_PER_STEP = 10_000_000


Temperature = Annotated[float, Field(ge=1e-4, le=1_000)]


class SamplingConfig(Settings):
    """How responses are drawn."""

    temperature: Temperature = 1.0
    """Divides the logits, in the engine and wherever the trainer computes log-probs."""
    top_p: Share = 1.0
    """Nucleus sampling; 1 keeps the whole distribution."""
    top_k: CountOrZero = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    max_response_tokens: Count = 1024
    """Length limit of a response."""
    turns: TurnsConfig = TurnsConfig()
    """Further limits, where a response has several turns (`workflow.format`)."""


def _with_program_expanded(command: tuple[str, ...]) -> tuple[str, ...]:
    """Arguments are left alone: they may be for a shell, perhaps on another machine."""
    return (expand(command[0]), *command[1:]) if command else command


Command = Annotated[tuple[str, ...], AfterValidator(_with_program_expanded)]


class ServersConfig(Settings):
    """SGLang servers, for engine `sglang`."""

    urls: tuple[str, ...] = ()
    """Their URLs, such as http://127.0.0.1:30000; each must answer at the start."""
    registry: FilePath | None = None
    """Or the folder in which `megatron-stare serve` announces them; read again at every sync."""
    transport: Literal["disk", "tensor", "distributed"] = "disk"
    """Of weights: through `weights_dir`; through shared memory; by process groups."""
    router: str | None = None
    """URL of an sglang-router for requests; None takes the one in `registry`, if there is one."""
    api_key_env: VariableName | None = None
    """Name of the environment variable that holds the API key of servers and router."""
    weights_dir: FilePath | None = None
    """Folder that trainer and servers share, for `disk`; None is `sync` in the run's folder."""
    bucket_mib: float = Field(default=256, gt=0, le=1_000_000)
    """Of weights sent at once by the other two; rank 0 holds two such buckets."""
    sync_host: Host | None = None
    """Address of rank 0's machine that servers reach, for `distributed`; None is loopback."""
    max_requests: Count = 256
    """Requests under way at one server; more wait here."""
    max_attempts: Count = 3
    """Servers that a sample is asked of before it is given up."""
    request_deadline_s: Seconds = 3600.0
    """Seconds for one sample on one server."""
    sync_deadline_s: Seconds = 600.0
    """Seconds for a server to load weights; one that does not is left out until the next."""
    health_every_s: Seconds = 10.0
    """Seconds that a server may be silent while requests run, before it has to show that it
    generates."""
    health_deadline_s: Seconds = 30.0
    """Seconds for a server that failed, or was silent, to show that it generates."""
    min_servers: RankCount = 1
    """Servers that every sync must find; the run waits `start_deadline_s` for them, then ends."""
    restart_command: Command | None = None
    """Program and arguments, run once for each server that is left out; {url} is the server's."""
    stall_deadline_s: Seconds = 3600.0
    """Seconds without a sample from any server until what is awaited is sent again, and as many
    until the run stops."""
    start_deadline_s: Seconds = 300.0
    """Seconds to wait for servers, at the start and where too few are left at a sync."""

    @model_validator(mode="after")
    def _urls_are_urls(self) -> ServersConfig:
        named = [("urls has", url) for url in self.urls]
        if self.router is not None:
            named.append(("router is", self.router))
        for name, url in named:
            if not is_server_url(url):
                raise ValueError(
                    f"{name} {url!r}, expected scheme, host and port: http://HOST:PORT"
                )
            if self.urls.count(url) > 1:
                raise ValueError(f"urls has {url!r} twice: one server cannot take weights twice")
        if self.urls and self.min_servers > len(self.urls):
            raise ValueError(
                f"min_servers={self.min_servers}: expected at most the {len(self.urls)} of urls"
            )
        if self.restart_command is not None and not any(self.restart_command[:1]):
            raise ValueError(
                f"restart_command={list(self.restart_command)}: expected a program and its "
                "arguments, or null"
            )
        if self.urls and self.registry is not None:
            raise ValueError(f"urls and registry={self.registry}: give one of them")
        return self


class EngineConfig(Settings):
    """What generates."""

    engine: Literal["embedded", "replay", "sglang"] = "embedded"
    """`embedded`: transformers in this process; `replay`: recorded samples; `sglang`: servers."""
    replay_path: FilePath | None = None
    """JSONL of recorded samples, for `replay`."""
    servers: ServersConfig = ServersConfig()
    max_batch_sequences: Count = 512
    """Sequences that the embedded engine generates together."""

    @model_validator(mode="after")
    def _replay_has_a_path(self) -> EngineConfig:
        if (self.engine == "replay") != (self.replay_path is not None):
            raise ValueError(
                f"engine={self.engine!r} with replay_path={self.replay_path}: "
                "replay_path belongs to engine 'replay', and it needs one"
            )
        return self

    @model_validator(mode="after")
    def _sglang_has_servers(self) -> EngineConfig:
        has_servers = bool(self.servers.urls) or self.servers.registry is not None
        if (self.engine == "sglang") != has_servers:
            raise ValueError(
                f"engine={self.engine!r} with servers.urls={list(self.servers.urls)}, "
                f"servers.registry={self.servers.registry}: servers belong to engine 'sglang', "
                "and it needs urls or a registry"
            )
        return self


class RolloutConfig(EngineConfig, SamplingConfig):
    """Generation of the training batch."""

    prompts_per_step: BatchCount = 64
    """Groups in a training batch."""
    samples_per_prompt: BatchCount = 8
    """G, the size of a group."""
    dynamic_sampling: bool = True
    """Drop groups that `algorithm.filters` do not keep, by default those whose verdicts are all
    equal, and draw more prompts (DAPO)."""
    max_rounds: int = Field(default=10, ge=1, le=1_000)
    """Generation rounds per step before dynamic sampling gives up."""
    oversampling: float = Field(default=1.0, ge=1, le=2)
    """Groups under way over groups missing: the first that are whole fill the batch, and the rest
    is stopped."""
    partial_rollouts: bool = False
    """Responses that are stopped go on in the next step, under its weights; engine `sglang`."""
    one_step_off: bool = False
    """Generate the next batch while this one is trained on: its weights are one step older."""
    max_staleness: Count = 1
    """Steps by which a token may be older than the weights that it trains; a batch waits for
    partial rollouts that would become older."""
    colocated: bool = False
    """Servers and trainer share GPUs, and take turns with their memory; servers must be started
    with --enable-memory-saver."""
    turn_gains: TurnGainsConfig = TurnGainsConfig()
    """What turns earn by themselves, for methods that read it."""

    @property
    def is_off_policy(self) -> bool:
        """Whether tokens may be older than the weights that they train."""
        return self.partial_rollouts or self.one_step_off

    @model_validator(mode="after")
    def _partial_rollouts_can_go_on(self) -> RolloutConfig:
        if self.partial_rollouts and (self.engine != "sglang" or self.oversampling == 1):
            raise ValueError(
                f"partial_rollouts=true with engine={self.engine!r}, oversampling="
                f"{self.oversampling:g}: needs engine 'sglang', and oversampling > 1 for there to "
                "be responses that are stopped"
            )
        if self.partial_rollouts and self.one_step_off and self.max_staleness == 1:
            raise ValueError(
                "partial_rollouts=true with one_step_off=true and max_staleness=1: one step off "
                "takes that one, expected max_staleness of at least 2"
            )
        return self

    @model_validator(mode="after")
    def _step_ends(self) -> RolloutConfig:
        samples = self.prompts_per_step * self.samples_per_prompt
        if samples > _MAX_SAMPLES_PER_STEP:
            raise ValueError(
                f"prompts_per_step={self.prompts_per_step} x samples_per_prompt="
                f"{self.samples_per_prompt}: expected at most {_MAX_SAMPLES_PER_STEP} samples"
            )
        return self

    @model_validator(mode="after")
    def _samples_of_a_group_can_differ(self) -> RolloutConfig:
        for key, value in (("samples_per_prompt", self.samples_per_prompt), ("top_k", self.top_k)):
            if self.dynamic_sampling and value == 1:
                raise ValueError(
                    f"{key}=1 with dynamic_sampling=true: no group would have samples that "
                    "differ, and none would be trained on; expected more, or "
                    "dynamic_sampling=false"
                )
        return self

    @model_validator(mode="after")
    def _turns_can_be_taken(self) -> RolloutConfig:
        if self.colocated and (self.engine != "sglang" or self.one_step_off):
            raise ValueError(
                f"colocated=true with engine={self.engine!r}, one_step_off={self.one_step_off}: "
                "needs engine 'sglang', and generation and training in turn"
            )
        if self.colocated and self.servers.transport == "distributed":
            raise ValueError(
                "colocated=true with servers.transport='distributed': NCCL takes no two processes "
                "on one GPU, expected 'disk' or 'tensor'"
            )
        return self

"""Everything that shapes a run, typed, in reading order.

A run is a YAML file of differences from these defaults plus dotted overrides (`optim.lr=1e-6`).
Unknown keys, wrong types and impossible combinations stop the run here, with a `ConfigError` that
names the key, the value and what was expected. Checks that need the model's shape are in
`weights/hf_config.py`, those that need the world size in `launch/topology.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from megatron_stare.algorithms.corrections import CorrectionConfig
from megatron_stare.algorithms.stare import StareConfig


class Section(BaseModel):
    """A frozen group of keys that rejects what it does not know; docstrings are the help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RunConfig(Section):
    """Identity of the run."""

    dir: Path = Path("runs/default")
    """Folder of everything the run writes: metrics, samples, models, report."""
    seed: int = 1
    """Seed of data order, sampling and initialisation."""


class ResumableRunConfig(RunConfig):
    """Identity of a run that saves where it stands."""

    resume: Literal["auto", "never", "must"] = "auto"
    """`auto` goes on from the newest checkpoint in `dir` if there is one; `must` needs one; `never`
    refuses a folder that has one."""


class ModelConfig(Section):
    """The policy network."""

    path: Path
    """Hugging Face folder: config.json, tokenizer and, unless `random_init`, safetensors."""
    random_init: bool = False
    """Start from random weights (a seeded initialisation) instead of the folder's."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Parameter and activation type; gradients are accumulated in float32."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activation recompute: core attention only, or every layer."""


def sample_multiple(context: int) -> int:
    """Context parallelism of this size pads every sample to a multiple of so many tokens."""
    return 2 * context if context > 1 else 1


def padded_length(num_tokens: int, context: int) -> int:
    """Tokens that a sample of `num_tokens` takes up in a micro-batch."""
    multiple = sample_multiple(context)
    return -(-num_tokens // multiple) * multiple


class ParallelConfig(Section):
    """How one policy replica is split; data parallelism takes the rest of the world."""

    tensor: int = Field(default=1, ge=1)
    """Tensor-parallel size."""
    pipeline: int = Field(default=1, ge=1)
    """Pipeline-parallel size."""
    virtual_pipeline: int = Field(default=1, ge=1)
    """Model chunks per pipeline stage, interleaved over the stages: a smaller pipeline bubble."""
    context: int = Field(default=1, ge=1)
    """Context-parallel size: ranks that share the tokens of every sample."""
    expert: int = Field(default=1, ge=1)
    """Expert-parallel size: ranks of a pipeline stage, of any tensor, context and data parallelism,
    that share the experts of a layer; each computes its experts for the tokens of all."""
    sequence: bool = False
    """Sequence parallelism: split norms and dropout regions along tokens over the tensor group."""

    @property
    def replica(self) -> int:
        """Processes that hold one copy of the policy and work on the same samples."""
        return self.tensor * self.context * self.pipeline

    def explain_padded(self, num_tokens: int) -> str:
        """`num_tokens`, and their `padded_length` where it differs."""
        padded = padded_length(num_tokens, self.context)
        if padded == num_tokens:
            return str(num_tokens)
        return f"{num_tokens} ({padded} padded for parallel.context={self.context})"

    @model_validator(mode="after")
    def _sequence_needs_tensor(self) -> ParallelConfig:
        if self.sequence and self.tensor == 1:
            raise ValueError("parallel.sequence=true needs parallel.tensor > 1, found 1")
        return self

    @model_validator(mode="after")
    def _chunks_need_stages(self) -> ParallelConfig:
        if self.virtual_pipeline > 1 and self.pipeline == 1:
            raise ValueError(
                f"parallel.virtual_pipeline={self.virtual_pipeline} needs parallel.pipeline > 1, "
                "found 1"
            )
        return self


class DataConfig(Section):
    """A set of prompts with reference answers."""

    path: Path
    """JSONL or Parquet file, one problem per row."""
    prompt_field: str = "prompt"
    """Field of the problem: a string, or a list of chat messages."""
    answer_field: str = "answer"
    """Field of the reference answer."""
    template: str = "{prompt}"
    """Plain template with `{prompt}`; or `chat`, the tokenizer's chat template."""
    system_prompt: str | None = None
    """System message, with `template: chat`."""
    max_prompt_tokens: int = Field(default=1024, ge=1)
    """Longer prompts are left out, and counted."""
    on_long_prompt: Literal["skip", "error"] = "skip"
    """What a prompt over the limit does."""
    shuffle: bool = True
    """A new seeded order every epoch."""

    @model_validator(mode="after")
    def _template_has_a_place(self) -> DataConfig:
        if self.template != "chat" and "{prompt}" not in self.template:
            raise ValueError(f"template={self.template!r} needs '{{prompt}}', or must be 'chat'")
        if self.system_prompt is not None and self.template != "chat":
            raise ValueError("system_prompt is used with template: chat only")
        return self


class SamplingConfig(Section):
    """How responses are drawn."""

    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits, in the engine and wherever the trainer computes log-probs."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling; 1 keeps the whole distribution."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    max_response_tokens: int = Field(default=1024, ge=1)
    """Length limit of a response."""


class ServersConfig(Section):
    """SGLang servers, for engine `sglang`."""

    urls: tuple[str, ...] = ()
    """Their URLs, such as http://127.0.0.1:30000; each must answer at the start."""
    registry: Path | None = None
    """Or the folder in which `megatron-stare serve` announces them; read again at every sync."""
    transport: Literal["disk", "tensor", "distributed"] = "disk"
    """Of weights: through `weights_dir`; through shared memory; by process groups."""
    router: str | None = None
    """URL of an sglang-router for requests; None takes the one in `registry`, if there is one."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key of servers and router."""
    weights_dir: Path | None = None
    """Folder that trainer and servers share, for `disk`; None is `sync` in the run's folder."""
    bucket_mib: float = Field(default=256, gt=0)
    """Of weights sent at once by the other two; rank 0 holds two such buckets."""
    sync_host: str | None = None
    """Address of rank 0's machine that servers reach, for `distributed`; None is loopback."""
    max_requests: int = Field(default=256, ge=1)
    """Requests under way at one server; more wait here."""
    max_attempts: int = Field(default=3, ge=1)
    """Servers that a sample is asked of before it is given up."""
    request_deadline_s: float = Field(default=3600.0, gt=0)
    """Seconds for one sample on one server."""
    sync_deadline_s: float = Field(default=600.0, gt=0)
    """Seconds for a server to load weights; one that does not is left out until the next."""
    health_every_s: float = Field(default=10.0, gt=0)
    """Seconds that a server may be silent while requests run, before it has to show that it
    generates."""
    health_deadline_s: float = Field(default=30.0, gt=0)
    """Seconds for a server that failed, or was silent, to show that it generates."""
    min_servers: int = Field(default=1, ge=1)
    """Servers that every sync must find; the run waits `start_deadline_s` for them, then ends."""
    restart_command: tuple[str, ...] | None = None
    """Program and arguments, run once for each server that is left out; {url} is the server's."""
    stall_deadline_s: float = Field(default=3600.0, gt=0)
    """Seconds without a sample from any server until what is awaited is sent again, and as many
    until the run stops."""
    start_deadline_s: float = Field(default=300.0, gt=0)
    """Seconds to wait for servers, at the start and where too few are left at a sync."""

    @model_validator(mode="after")
    def _urls_are_urls(self) -> ServersConfig:
        named = [("urls has", url) for url in self.urls]
        if self.router is not None:
            named.append(("router is", self.router))
        for name, url in named:
            if not re.fullmatch(r"https?://[^/]+", url):
                raise ValueError(
                    f"{name} {url!r}, expected scheme, host and port: http://HOST:PORT"
                )
            if self.urls.count(url) > 1:
                raise ValueError(f"urls has {url!r} twice: one server cannot take weights twice")
        if self.urls and self.min_servers > len(self.urls):
            raise ValueError(
                f"min_servers={self.min_servers}: expected at most the {len(self.urls)} of urls"
            )
        if self.restart_command is not None and not self.restart_command:
            raise ValueError("restart_command=[]: expected a program and its arguments, or null")
        if self.urls and self.registry is not None:
            raise ValueError(f"urls and registry={self.registry}: give one of them")
        return self


class RolloutConfig(SamplingConfig):
    """Generation of the training batch."""

    engine: Literal["embedded", "replay", "sglang"] = "embedded"
    """`embedded`: transformers in this process; `replay`: recorded samples; `sglang`: servers."""
    replay_path: Path | None = None
    """JSONL of recorded samples, for `replay`."""
    servers: ServersConfig = ServersConfig()
    prompts_per_step: int = Field(default=64, ge=1)
    """Groups in a training batch."""
    samples_per_prompt: int = Field(default=8, ge=1)
    """G, the size of a group."""
    dynamic_sampling: bool = True
    """Drop groups whose verdicts are all equal and draw more prompts (DAPO)."""
    max_rounds: int = Field(default=10, ge=1)
    """Generation rounds per step before dynamic sampling gives up."""
    oversampling: float = Field(default=1.0, ge=1, le=2)
    """Groups under way over groups missing: the first that are whole fill the batch, and the rest
    is stopped."""
    partial_rollouts: bool = False
    """Responses that are stopped go on in the next step, under its weights; engine `sglang`."""
    one_step_off: bool = False
    """Generate the next batch while this one is trained on: its weights are one step older."""
    max_staleness: int = Field(default=1, ge=1)
    """Steps by which a token may be older than the weights that it trains; a batch waits for
    partial rollouts that would become older."""
    colocated: bool = False
    """Servers and trainer share GPUs, and take turns with their memory; servers must be started
    with --enable-memory-saver."""
    max_batch_sequences: int = Field(default=512, ge=1)
    """Sequences that the embedded engine generates together."""

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
    def _turns_can_be_taken(self) -> RolloutConfig:
        if self.colocated and (self.engine != "sglang" or self.one_step_off):
            raise ValueError(
                f"colocated=true with engine={self.engine!r}, one_step_off={self.one_step_off}: "
                "needs engine 'sglang', and generation and training in turn"
            )
        return self

    @model_validator(mode="after")
    def _replay_has_a_path(self) -> RolloutConfig:
        if (self.engine == "replay") != (self.replay_path is not None):
            raise ValueError(
                f"engine={self.engine!r} with replay_path={self.replay_path}: "
                "replay_path belongs to engine 'replay', and it needs one"
            )
        return self

    @model_validator(mode="after")
    def _sglang_has_servers(self) -> RolloutConfig:
        has_servers = bool(self.servers.urls) or self.servers.registry is not None
        if (self.engine == "sglang") != has_servers:
            raise ValueError(
                f"engine={self.engine!r} with servers.urls={list(self.servers.urls)}, "
                f"servers.registry={self.servers.registry}: servers belong to engine 'sglang', "
                "and it needs urls or a registry"
            )
        return self


class RewardConfig(Section):
    """How a response is judged."""

    kind: str = "math"
    """`math`, `exact`, or a function of your own, `package.module:function(response, answer)`."""
    format_pattern: str | None = None
    """Regular expression a response must match in full; None asks for no format."""
    format_reward: float = 0.0
    """Added when the format matches."""
    deadline_s: float = Field(default=10.0, gt=0)
    """Seconds a verification may take before its process is killed."""
    memory_gib: float = Field(default=2.0, gt=0)
    """Memory a verification may add before its process is killed."""
    workers: int = Field(default=2, ge=1)
    """Verifier processes."""
    overlong_buffer_tokens: int = Field(default=0, ge=0)
    """DAPO's soft overlong penalty over the last tokens before the length limit; 0 is off."""
    overlong_factor: float = 1.0
    """Largest overlong penalty."""


class AlgorithmConfig(Section):
    """Advantages and loss."""

    advantage: Literal["grpo", "dr_grpo", "rloo"] = "grpo"
    """Group baseline and normalisation."""
    clip_low: float = Field(default=0.2, ge=0, lt=1)
    """Ratio is clipped below at 1 - clip_low."""
    clip_high: float = Field(default=0.28, ge=0)
    """Ratio is clipped above at 1 + clip_high."""
    dual_clip: float = Field(default=10.0, gt=1)
    """Bound of the loss in units of |advantage| where the advantage is negative."""
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"] = "token-mean"
    """How token losses become one number, over the global batch."""
    kl: Literal["none", "k1", "k2", "k3"] = "none"
    """Estimator of the penalty towards the starting policy."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of that penalty."""
    correction: CorrectionConfig = CorrectionConfig()

    @model_validator(mode="after")
    def _kl_has_a_weight(self) -> AlgorithmConfig:
        if (self.kl == "none") != (self.kl_coef == 0.0):
            raise ValueError(f"kl={self.kl!r} with kl_coef={self.kl_coef}: set both or neither")
        return self


class OptimConfig(Section):
    """AdamW and its schedule."""

    lr: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    min_lr: float = Field(default=0.0, ge=0)
    """Learning rate at the end of the decay."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps of linear warm-up."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule after the warm-up, over the rest of the run."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled; not applied to norms and biases."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Denominator offset."""
    clip_grad: float = Field(default=1.0, ge=0)
    """Largest global gradient norm; 0 does not clip."""

    @model_validator(mode="after")
    def _decays_downwards(self) -> OptimConfig:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr} exceeds lr={self.lr}")
        return self


class TrainSection(Section):
    """The loop."""

    steps: int = Field(default=100, ge=1)
    """Steps; one batch of rollouts each."""
    updates_per_step: int = Field(default=1, ge=1)
    """Optimizer updates per batch: 1 is on-policy, more split the batch by groups."""
    max_tokens_per_micro_batch: int = Field(default=8192, ge=1)
    """Token budget of a packed micro-batch on one data-parallel rank."""
    save_every: int = Field(default=0, ge=0)
    """Steps between saved Hugging Face folders; 0 saves at the end only."""
    max_bad_updates: int = Field(default=3, ge=1)
    """Updates with a non-finite loss or gradient in a row, each skipped, before the run stops."""


class EvalSection(SamplingConfig):
    """Held-out evaluation."""

    data: DataConfig | None = None
    """Problems; None evaluates nothing."""
    every: int = Field(default=0, ge=0)
    """Steps between evaluations; 0 evaluates at the start and end only."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """k of avg@k; pass@k is reported for 1, 2, 4, ... k."""
    max_batch_sequences: int = Field(default=512, ge=1)
    """Sequences that `megatron-stare eval` generates together."""
    max_prompts: int | None = Field(default=None, ge=1)
    """Use the first problems only."""


class LogConfig(Section):
    """Where metrics go, besides metrics.jsonl and the console."""

    tensorboard: bool = False
    """Write TensorBoard events."""
    wandb_project: str | None = None
    """Weights & Biases project; None is off."""
    wandb_mode: Literal["online", "offline"] = "online"
    """`offline` writes locally, for `wandb sync`."""
    progress: bool = True
    """Progress bars on a terminal."""
    dump_samples: bool = True
    """Write every sample to samples/step_N.jsonl."""


class CheckpointConfig(Section):
    """What a run needs to go on where it stopped, in `checkpoints/` of its folder."""

    every: int = Field(default=20, ge=0)
    """Steps between checkpoints, and one at the end; 0 saves only when told to stop."""
    keep_last: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept."""
    keep_every: int = Field(default=0, ge=0)
    """Checkpoints of every so many steps are kept as well; 0 keeps none of them."""
    asynchronous: bool = True
    """Write while training goes on."""
    verify: bool = True
    """Read a checkpoint's files for their checksums before it is used; sizes are always checked."""
    grace_s: float = Field(default=120.0, gt=0)
    """Seconds from SIGTERM or SIGUSR1 until the process ends even if it has not saved."""


class SlurmRolloutConfig(Section):
    """SGLang servers in the job, where `rollout.servers.registry` says that servers announce
    themselves."""

    nodes: int = Field(default=0, ge=0)
    """Nodes of their own; 0 puts servers on the trainers' nodes, on the GPUs that those leave."""
    gpus_per_node: int | None = Field(default=None, ge=0)
    """GPUs of such a node, where they are not those of the trainers' nodes."""
    options: tuple[str, ...] = ()
    """sbatch options of these nodes, such as `--partition=l40s`; with any, or with other GPUs, the
    job is a heterogeneous one."""
    tensor: int = Field(default=1, ge=1)
    """GPUs of a server; a node has as many servers as fit, and one without GPUs has one."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the servers' weights and activations."""
    python: Path = Path(".venv-sglang/bin/python")
    """Of the servers' environment."""
    start_deadline_s: float = Field(default=1800.0, gt=0)
    """Seconds for the servers of a node to come up."""
    sglang: tuple[str, ...] = ()
    """Arguments for SGLang's own launcher."""


_OPTION = re.compile(r"--[a-z][a-z-]*(=\S+)?")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_]\w*")
_MOUNT = re.compile(r"[^\s'\"\\$`,:]+:[^\s'\"\\$`,]+")
_OVERRIDE = re.compile(r"[\w.]+=[^\s'\"\\$`/]+")


class SlurmConfig(Section):
    """The job that `megatron-stare slurm` makes of the config; a run does not read it."""

    nodes: int = Field(default=1, ge=1)
    """Nodes of trainers."""
    processes_per_node: int = Field(default=8, ge=1)
    """Trainer processes on each of them, one for a GPU."""
    gpus_per_node: int = Field(default=8, ge=0)
    """GPUs of a node; 0 is a cluster without."""
    cpus_per_process: int = Field(default=8, ge=1)
    """Cores of a trainer process; servers get as many for each GPU."""
    rollout: SlurmRolloutConfig = SlurmRolloutConfig()
    hours: float = Field(default=24.0, gt=0)
    """Time limit of the job, which queues itself again until the run is over."""
    signal_s: int = Field(default=600, ge=60)
    """Seconds before the limit at which the run is told to save; more than a step takes."""
    max_restarts: int = Field(default=20, ge=0)
    """How often the job may be queued again, whatever the reason."""
    options: tuple[str, ...] = ()
    """Further sbatch options, such as `--partition=h200` or `--account=me`."""
    sweep: tuple[str, ...] = ()
    """Runs of a job array: the overrides of each, such as `run.seed=2 optim.lr=2e-6`."""
    setup: tuple[str, ...] = ()
    """Lines of shell that make the environment: modules, a virtual environment."""
    environment: dict[str, str] = {}
    """Further variables, such as NCCL_SOCKET_IFNAME."""
    container: str | None = None
    """Image that pyxis runs every process in; None runs them on the nodes themselves."""
    mounts: tuple[str, ...] = ()
    """Folders in the container besides the one that the job is submitted from, `FROM:TO`."""

    @model_validator(mode="after")
    def _can_be_written_into_a_script(self) -> SlurmConfig:
        for key, values, pattern, expected in (
            ("options", self.options, _OPTION, "--name=value without spaces"),
            ("rollout.options", self.rollout.options, _OPTION, "--name=value without spaces"),
            ("environment", self.environment, _ENVIRONMENT_NAME, "a variable's name"),
            ("mounts", self.mounts, _MOUNT, "FROM:TO without spaces, quotes or $"),
        ):
            for value in values:
                if not pattern.fullmatch(value):
                    raise ValueError(f"{key} has {value!r}, expected {expected}")
        for runs in self.sweep:
            if not runs.split() or not all(map(_OVERRIDE.fullmatch, runs.split())):
                raise ValueError(
                    f"sweep has {runs!r}, expected section.key=value, more behind spaces; no "
                    "quotes, slashes or $: a run's folder is named so"
                )
        if len(set(self.sweep)) < len(self.sweep):
            raise ValueError(f"sweep={list(self.sweep)} has the same run twice")
        return self

    @model_validator(mode="after")
    def _container_and_mounts(self) -> SlurmConfig:
        if self.mounts and self.container is None:
            raise ValueError(f"mounts={list(self.mounts)} needs a container, found none")
        return self

    @model_validator(mode="after")
    def _saves_before_the_limit(self) -> SlurmConfig:
        if self.signal_s >= self.hours * 3600:
            raise ValueError(
                f"signal_s={self.signal_s} is no less than the time limit, hours={self.hours:g}"
            )
        return self


class TrainConfig(Section):
    """`megatron-stare train`: reinforcement learning of a policy."""

    run: ResumableRunConfig = ResumableRunConfig()
    model: ModelConfig
    parallel: ParallelConfig = ParallelConfig()
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    stare: StareConfig = StareConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainSection = TrainSection()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalSection = EvalSection()
    log: LogConfig = LogConfig()
    slurm: SlurmConfig = SlurmConfig()

    @property
    def needs_prepass(self) -> bool:
        """Whether log-probs of the policy before the update are needed before the update."""
        return self.stare.surprisal == "policy" or self.train.updates_per_step > 1

    @model_validator(mode="after")
    def _older_tokens_are_corrected(self) -> TrainConfig:
        """Say which correction `auto` is."""
        correction = self.algorithm.correction
        if correction.kind == "auto":
            kind = "tis" if self.rollout.is_off_policy else "none"
            chosen = correction.model_copy(update={"kind": kind})
            algorithm = self.algorithm.model_copy(update={"correction": chosen})
            object.__setattr__(self, "algorithm", algorithm)  # Frozen, for everyone after this.
        return self

    @model_validator(mode="after")
    def _fields_fit_together(self) -> TrainConfig:
        rollout, updates = self.rollout, self.train.updates_per_step
        if rollout.prompts_per_step % updates:
            raise ValueError(
                f"train.updates_per_step={updates} does not divide "
                f"rollout.prompts_per_step={rollout.prompts_per_step}"
            )
        if self.stare.surprisal == "rollout" and (rollout.top_p < 1 or rollout.top_k > 0):
            raise ValueError(
                f"stare.surprisal='rollout' with rollout.top_p={rollout.top_p}, "
                f"rollout.top_k={rollout.top_k}: truncated sampling renormalises the engine's "
                "log-probs, so their mean is no estimate of the policy's entropy; "
                "use top_p=1 and top_k=0, or stare.surprisal='policy'"
            )
        longest = self.data.max_prompt_tokens + rollout.max_response_tokens
        if padded_length(longest, self.parallel.context) > self.train.max_tokens_per_micro_batch:
            raise ValueError(
                f"train.max_tokens_per_micro_batch={self.train.max_tokens_per_micro_batch} cannot "
                "hold one sample of data.max_prompt_tokens + rollout.max_response_tokens = "
                f"{self.parallel.explain_padded(longest)}"
            )
        if self.reward.overlong_buffer_tokens > rollout.max_response_tokens:
            raise ValueError(
                f"reward.overlong_buffer_tokens={self.reward.overlong_buffer_tokens} exceeds "
                f"rollout.max_response_tokens={rollout.max_response_tokens}"
            )
        return self


class SftDataConfig(Section):
    """Worked examples."""

    path: Path
    """JSONL or Parquet file, one example per row."""
    prompt_field: str = "prompt"
    """Field of the problem: a string, or a list of chat messages."""
    response_field: str = "response"
    """Field of the response to learn; the end-of-sequence token is appended."""
    template: str = "{prompt}"
    """Plain template with `{prompt}`; or `chat`, the tokenizer's chat template."""
    max_tokens: int = Field(default=2048, ge=2)
    """Longer examples are left out, and counted."""


class SftSection(Section):
    """The supervised loop."""

    steps: int = Field(default=100, ge=1)
    """Optimizer steps."""
    examples_per_step: int = Field(default=64, ge=1)
    """Examples in the global batch."""
    max_tokens_per_micro_batch: int = Field(default=8192, ge=1)
    """Token budget of a packed micro-batch on one data-parallel rank."""
    max_bad_updates: int = Field(default=3, ge=1)
    """Updates with a non-finite loss or gradient in a row, each skipped, before the run stops."""


class SftConfig(Section):
    """`megatron-stare sft`: packed supervised fine-tuning."""

    run: ResumableRunConfig = ResumableRunConfig()
    model: ModelConfig
    parallel: ParallelConfig = ParallelConfig()
    data: SftDataConfig
    optim: OptimConfig = OptimConfig()
    sft: SftSection = SftSection()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _an_example_fits_a_micro_batch(self) -> SftConfig:
        longest = self.data.max_tokens
        if padded_length(longest, self.parallel.context) > self.sft.max_tokens_per_micro_batch:
            raise ValueError(
                f"data.max_tokens={self.parallel.explain_padded(longest)} exceeds "
                f"sft.max_tokens_per_micro_batch={self.sft.max_tokens_per_micro_batch}"
            )
        return self


class EvalConfig(Section):
    """`megatron-stare eval`: avg@k and pass@k of a Hugging Face folder."""

    run: RunConfig = RunConfig()
    model: ModelConfig
    reward: RewardConfig = RewardConfig()
    eval: EvalSection
    log: LogConfig = LogConfig()

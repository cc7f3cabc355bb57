"""SGLang servers as a clock: how long they take to decode responses of given lengths.

A server takes a step for one more token of each response that runs on it. The step reads the
weights, and the keys and values of all of them; or it is bound by operations, whichever takes
longer. Between two events (a response ends, another begins) the step grows with the contexts only,
so a server jumps from event to event.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from megatron_stare.plan.job import Job
from megatron_stare.policy.flops import sample_cost
from megatron_stare.weights.names import num_parameters

_BYTES = 2
"""Servers hold weights, keys and values in bfloat16."""


@dataclass(frozen=True, slots=True)
class ServerSpeed:
    """What one server can do.

    token_flops, pair_flops  operations of a token, and more for each token of its context
    weight_bytes, token_bytes  read in a step, and more for each token of all contexts; per GPU
    """

    token_flops: float
    pair_flops: float
    weight_bytes: float
    token_bytes: float
    flops_s: float
    bytes_s: float
    overhead_s: float
    capacity_tokens: int
    """Keys and values of so many tokens fit."""
    max_requests: int

    @classmethod
    def of(cls, job: Job) -> ServerSpeed:
        """Of one of the job's servers."""
        shape, assumed, size = job.shape, job.assumptions, job.server_gpus
        cost = sample_cost(shape)
        weights = num_parameters(job.entries) * _BYTES / size
        kv_heads = max(shape.num_kv_heads / size, 1.0)
        token = 2 * shape.num_layers * kv_heads * shape.head_dim * _BYTES
        room = job.gpu.memory_gib * 2**30 * assumed.server_memory_share - weights
        return cls(
            token_flops=cost.per_token + cost.per_loss_token,
            pair_flops=2 * cost.per_token_pair,
            weight_bytes=weights,
            token_bytes=token,
            flops_s=job.gpu.bf16_tflops * 1e12 * assumed.decode_compute_share * size,
            bytes_s=job.gpu.memory_gb_s * 1e9 * assumed.decode_bandwidth_share,
            overhead_s=assumed.decode_overhead_s,
            capacity_tokens=int(room / token),
            max_requests=job.rollout.servers.max_requests,
        )

    def step_seconds(self, num_running: float, context_tokens: float) -> float:
        """One more token of each of `num_running` responses, `context_tokens` of them in all."""
        memory = (self.weight_bytes + self.token_bytes * context_tokens) / self.bytes_s
        flops = self.token_flops * num_running + self.pair_flops * context_tokens
        return self.overhead_s + max(memory, flops / self.flops_s)

    def prefill_seconds(self, num_tokens: int) -> float:
        """Reading so many tokens of one sample."""
        flops = self.token_flops * num_tokens + self.pair_flops * num_tokens**2 / 2
        return flops / self.flops_s


@dataclass(frozen=True, slots=True)
class Task:
    """A response to be decoded.

    key      what names it
    context  tokens there are: the prompt, and what was decoded before
    todo     tokens to decode
    unread   tokens of the context that no cache has
    """

    key: int
    context: int
    todo: int
    unread: int


@dataclass(slots=True)
class _Server:
    speed: ServerSpeed
    now: float = 0.0
    steps: float = 0.0
    """Steps taken so far: a response that begins now ends at `steps + todo`."""
    running: list[tuple[float, int, Task]] = field(default_factory=list)
    context: float = 0.0
    """Tokens of all running contexts."""
    reserved: int = 0
    """Tokens that they will have in the end."""

    def has_room(self, task: Task) -> bool:
        """Whether the task would run to its end without pushing out another; one always runs."""
        if not self.running:
            return True
        is_crowded = len(self.running) >= self.speed.max_requests
        return not is_crowded and self.reserved + task.context + task.todo <= (
            self.speed.capacity_tokens
        )

    def begin(self, task: Task) -> None:
        self.now += self.speed.prefill_seconds(task.unread)
        heapq.heappush(self.running, (self.steps + task.todo, task.key, task))
        self.context += task.context
        self.reserved += task.context + task.todo

    def next_end(self) -> float:
        """When the next response ends."""
        return self.now + self._seconds(self.running[0][0] - self.steps)

    def end_next(self) -> Task:
        self.now, self.steps, before = self.next_end(), self.running[0][0], self.steps
        self.context += (self.steps - before) * len(self.running)
        task = heapq.heappop(self.running)[2]
        self.context -= task.context + task.todo
        self.reserved -= task.context + task.todo
        return task

    def done_at(self, moment: float) -> Iterator[tuple[Task, int]]:
        """Tokens decoded of what runs, at a moment before the next end."""
        ahead = self.running[0][0] - self.steps
        share = (moment - self.now) / max(self.next_end() - self.now, 1e-12)
        steps = self.steps + ahead * min(max(share, 0.0), 1.0)
        for end, _, task in self.running:
            yield task, max(int(task.todo - (end - steps)), 0)

    def _seconds(self, steps: float) -> float:
        count = len(self.running)
        return steps * self.speed.step_seconds(count, self.context + count * steps / 2)


class Servers:
    """A pool that decodes tasks, those that came first first.

    for key, seconds in servers.run(tasks): ...    as they end; may be left early
    servers.unfinished()                           then: what runs or waits, and its tokens so far
    """

    def __init__(self, speed: ServerSpeed, count: int) -> None:
        self._speed, self._count = speed, count
        self._servers: list[_Server] = []
        self._queue: deque[Task] = deque()
        self._now = 0.0

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[int, float]]:
        """Decode tasks, beginning at 0 s; yield each with the seconds at its end."""
        self._servers = [_Server(self._speed) for _ in range(self._count)]
        self._queue = deque(tasks)
        self._now = 0.0
        self._deal()
        ends = [(s.next_end(), i) for i, s in enumerate(self._servers) if s.running]
        heapq.heapify(ends)
        while ends:
            self._now, index = heapq.heappop(ends)
            server = self._servers[index]
            task = server.end_next()
            while self._queue and server.has_room(self._queue[0]):
                server.begin(self._queue.popleft())
            if server.running:
                heapq.heappush(ends, (server.next_end(), index))
            yield task.key, self._now

    def unfinished(self) -> Iterator[tuple[int, int]]:
        """Keys and tokens decoded of what has not ended now."""
        for server in self._servers:
            if server.running:
                for task, done in server.done_at(self._now):
                    yield task.key, done
        for task in self._queue:
            yield task.key, 0
        self._servers, self._queue = [], deque()

    def _deal(self) -> None:
        """Fill the servers in turn, as the least busy one gets the next."""
        open_servers = deque(self._servers)
        while self._queue and open_servers:
            server = open_servers.popleft()
            if server.has_room(self._queue[0]):
                server.begin(self._queue.popleft())
                open_servers.append(server)

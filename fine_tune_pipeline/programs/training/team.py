"""Processes that train one model together: who they are, what each of them does, and what they tell each other.

Every process sees all rows of a step and takes its share of them. They meet once a step, after their passes: numbers, troubles and
gradients of all become those of each, so that every process decides alike. In between a process is by itself: what goes wrong there
(memory, a signal) is told at the next meeting instead of leaving the others waiting.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fine_tune_pipeline.programs.exit_codes import MATE_LOST
from fine_tune_pipeline.programs.requests import Hyperparameters, Parallel, Placement
from fine_tune_pipeline.programs.training.preemption import Interrupted, Preemption
from fine_tune_pipeline.programs.training.together import not_together

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=1)
"""For another process. Its death is seen by `mates.py`, standstill by `stall.py`; a checkpoint may take its time."""

BUCKET_NUMBERS = 16 * 2**20
"""Of gradients, summed at once: 64 MiB of float32 beside the gradients themselves."""


class MateLost(RuntimeError):
    """Another process of the same training does not answer any more."""


class NotTogether(ValueError):
    """A setting of the training is known to one process only."""


class Pass(NamedTuple, Generic[T]):
    """Rows that go through the model together. One that does not `count` only keeps step with the other processes."""

    rows: Sequence[T]
    counts: bool = True


@dataclass(frozen=True)
class Team:
    """As one of `size` processes sees it. `sharded`: no process has the whole model, so all of them make the same passes (fsdp2)."""

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and writes for all."""
        return self.rank == 0

    def passes(self, rows: Sequence[T], micro_batch: int) -> list[Pass[T]]:
        """This process' share of the rows of a step, longest first, in pieces of at most `micro_batch`."""
        share = rows[self.rank :: self.size]
        own = [Pass(share[first : first + micro_batch]) for first in range(0, len(share), micro_batch)]
        if self.sharded:
            most = -(-len(rows[:: self.size]) // micro_batch)
            own += [Pass(rows[-1:], counts=False)] * (most - len(own))
        return own

    def everyone(self, mine: T) -> list[T]:
        """What each process has brought, by rank.

        Raises:
            MateLost: one of them is gone.
        """
        if self.size == 1:
            return [mine]
        found: list[T | None] = [None] * self.size
        with _answering():
            dist.all_gather_object(found, mine)
        return found  # type: ignore[return-value]  # each place was filled

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all."""
        return self.everyone(make() if self.first else None)[0]  # type: ignore[return-value]  # the first has made one

    def together(self, work: Callable[[], T], *, preemption: Preemption, shared: type[Exception]) -> list[T]:
        """What `work` gives in each process, by rank. A signal to one of them, and a `shared` error of one, is raised in all.

        Raises:
            Interrupted: a signal wants some process to end.
        """
        if self.size == 1:
            return [work()]
        found: T | None = None
        trouble: BaseException | None = None
        try:
            found = work()
        except (Interrupted, shared) as error:
            if self.sharded:
                # The others are inside of a pass, where they do not hear of it.
                raise
            trouble = error.with_traceback(None)
        if preemption.asked:
            trouble = Interrupted()
        brought = self.everyone((found, trouble))
        troubles = [each for _, each in brought if each is not None]
        if troubles:
            raise next((each for each in troubles if isinstance(each, Interrupted)), troubles[0])
        return [each for each, _ in brought]  # type: ignore[misc]  # without trouble, there is work of each

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, which have to bring the same ones."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _answering():
                dist.all_reduce(flat)
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def own(self, placement: Placement) -> Placement:
        """The part of the placement that this process uses: its device, its share of the cores."""
        if self.size == 1:
            return placement
        local = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        threads = None if placement.threads is None else max(1, placement.threads // local)
        device = f"cuda:{os.environ['LOCAL_RANK']}" if placement.device == "cuda" else placement.device
        return placement.model_copy(update={"threads": threads, "device": device})


ALONE = Team()
"""Without a launcher."""


def check_together(wanted: Hyperparameters, team: Team) -> None:
    """Refuse what was not made for several processes.

    Raises:
        NotTogether: names the settings.
    """
    if team.size == 1:
        return
    if refused := not_together(wanted, in_parts=team.sharded):
        raise NotTogether(refused)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(each.numel() for each in bucket) + tensor.numel() > BUCKET_NUMBERS:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise MateLost(
            f"process {os.environ.get('RANK')} of this training waits for another one, which has ended; why is in the output before "
            f"({str(error).splitlines()[0]})"
        ) from error


@contextmanager
def joined(*, device: str, parallel: Parallel) -> Iterator[Team]:
    """The team that a launcher (`accelerate launch`, `torchrun`) has started this process for; without one it is alone.

    A process that finds another one gone ends by an exit code of its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    if device != "cpu":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # What is told goes over the CPU in any case: it does not wait for the accelerator's queue.
    dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=LONGEST_WAIT)
    try:
        yield Team(rank=dist.get_rank(), size=size, sharded=parallel == "fsdp2")
    except MateLost as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        sys.stdout.flush()
        # All files are closed. The interpreter's own end takes seconds on a busy machine, and the launcher waits for it.
        os._exit(MATE_LOST)
    dist.destroy_process_group()

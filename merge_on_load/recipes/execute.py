"""Runs a plan's jobs on threads, in bounded memory."""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import numpy as np

from merge_on_load.errors import BadRecipe, MergeError, ShapeMismatch
from merge_on_load.methods.method import Input, Out, Task, Values
from merge_on_load.recipes.plan import Job, Origin, Plan
from merge_on_load.recipes.sources import words_of
from merge_on_load.threads import thread_count

# While one thread waits for the disk, another computes.
_THREADS_PER_CORE = 2
HELD_LIMIT_BYTES = 256 << 20  # of inputs that no file can be mapped for, in all jobs together


def run(
    plan: Plan,
    out_of: Callable[[Job], Out],
    *,
    seed: int = 0,
    allow_nan: bool = False,
    done: Callable[[Job], None] | None = None,
    threads: int | None = None,
) -> None:
    """Run every job once, the largest first. done: called here after each.

    A job is one thread's from begin to end, so the number of threads does not show in the result.
    After an error no job is begun any more. Raises MergeError, OSError.
    """
    order = sorted(plan.jobs, key=lambda job: -job.spec.size_bytes)
    count = max(1, threads or _THREADS_PER_CORE * thread_count())
    with ThreadPoolExecutor(count, thread_name_prefix="merge") as pool:
        running: dict[Future[None], Job] = {}
        try:
            while order or running:
                while order and len(running) < count and _fits(order[0], running):
                    job = order.pop(0)
                    out = out_of(job)
                    running[pool.submit(run_job, job, out, seed=seed, allow_nan=allow_nan)] = job
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    job = running.pop(future)
                    future.result()
                    if done:
                        done(job)
        finally:
            for future in running:
                future.cancel()


def _fits(job: Job, running: dict[Future[None], Job]) -> bool:
    held = sum(one.held_bytes for one in running.values())
    return not running or held + job.held_bytes <= HELD_LIMIT_BYTES


def run_job(job: Job, out: Out, *, seed: int = 0, allow_nan: bool = False) -> None:
    """Merge, or copy, one tensor. Raises MergeError, OSError."""
    with _released(job):
        if job.method is None:
            _copy_equals(job, out)
            return
        base, models = job.base, job.models
        task = Task(
            job.tensor,
            job.spec.shape,
            _input(base, {}) if base else None,
            tuple(_input(one, of) for one, of in zip(models, job.per_model, strict=True)),
            job.values,
            seed,
            allow_nan,
        )
        try:
            job.method.merge(task, out)
        except MergeError as error:
            raise error.located(tensor=job.tensor) from error
        except ValueError as error:
            raise BadRecipe(f"{job.method.name}: {error}", tensor=job.tensor) from error


def _input(origin: Origin, values: Values) -> Input:
    raw = origin.source.raw(origin.tensor)
    return Input(words_of(raw, origin.spec.dtype), origin.source.path, values)


def _copy_equals(job: Job, out: Out) -> None:
    """Whole numbers are the same in all models, or there is no meaning in merging them."""
    first, *others = job.models
    found = first.source.raw(first.tensor)
    for one in others:
        if not np.array_equal(found, one.source.raw(one.tensor)):
            raise ShapeMismatch(
                f"whole numbers that differ from those of {first.source.path} cannot be merged",
                file=one.source.path,
                tensor=one.tensor,
            )
    out.room(0, found.size)[:] = found
    out.put(0, found.size)


@contextmanager
def _released(job: Job) -> Iterator[None]:
    try:
        yield
    finally:
        for one in job.origins:
            one.source.release(one.tensor)

"""Captions photos that arrive together in one batch. One thread works; everyone else waits for a future.

A photo that comes alone is captioned at once. While a batch is in work, others gather, and the next batch takes all of
those that ask for the same: so batches grow with the load by themselves.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vlcap.bulk.work import Wish, captions_of
from vlcap.captioner import Caption, Captioner

LINGER = 0.01  # seconds that a batch waits at most for photos that are being decoded
SMALLEST = 2  # photos that a lane gets at least: one photo gets all cores


@dataclass(eq=False)
class Job:
    """A photo that waits.

    Attributes:
        pixels: uint8 (3, S, S).
        wish: What is asked for.
        found: Its captions, the best first.
    """

    pixels: NDArray[np.uint8]
    wish: Wish
    found: Future[list[Caption]] = field(default_factory=Future)

    @property
    def copies(self) -> int:
        """Rows of pixels that it needs. Several samples are drawn from as many copies, several beams from one."""
        return self.wish.count if self.wish.generation.get("do_sample") else 1


class Batching:
    """The queue and its thread.

    Args:
        captioner: The captioner. Nobody else runs it meanwhile.
        most: Photos of a batch for each lane of the engine.
        captioned: Is told how many photos a batch had.
    """

    def __init__(self, captioner: Captioner, most: int, captioned: Callable[[int], None] = lambda photos: None):
        self.captioner, self.captioned = captioner, captioned
        self.lanes = captioner.engine.lanes
        self.most = most * self.lanes
        self.pace = 0.1  # seconds for a photo, as it was lately
        self.decoding = 0  # photos that will come in a moment
        self._jobs: deque[Job] = deque()
        self._there = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="captions", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Photos that wait."""
        return len(self._jobs)

    def add(self, pixels: NDArray[np.uint8], wish: Wish) -> Future[list[Caption]]:
        """Lets a photo wait for its captions. A future that is cancelled takes it from the queue."""
        job = Job(pixels, wish)
        with self._there:
            if self._ended:
                job.found.cancel()
                return job.found
            self._jobs.append(job)
            self._there.notify()
        job.found.add_done_callback(lambda _: self._forget(job))
        return job.found

    def end(self) -> None:
        """Ends after the batch in work. Photos that wait get no caption: their futures are cancelled."""
        with self._there:
            self._ended = True
            left = list(self._jobs)
            self._there.notify()
        for job in left:
            job.found.cancel()
        self._thread.join()

    def _forget(self, job: Job) -> None:
        with self._there:
            if job in self._jobs:
                self._jobs.remove(job)

    def _work(self) -> None:
        while jobs := self._taken():
            started = time.monotonic()
            try:
                for job, captions in zip(jobs, self._captions(jobs), strict=True):
                    job.found.set_result(captions)
            except BaseException as error:  # BaseException: a library in Rust may panic. The next batch goes on
                for job in jobs:
                    if not job.found.done():
                        job.found.set_exception(error)
            else:
                self.captioned(len(jobs))
            self.pace += 0.2 * ((time.monotonic() - started) / len(jobs) - self.pace)

    def _taken(self) -> list[Job]:
        """The next jobs: the first one, and those that ask for the same. Waits for one; none at the end."""
        taken: list[Job] = []
        while not taken:
            with self._there:
                while not self._jobs and not self._ended:
                    self._there.wait()
                if self._ended:
                    return []
                self._linger()
                if not self._jobs:  # cancelled meanwhile
                    continue
                wish, left = self._jobs[0].wish, deque[Job]()
                most = max(1, self.most // wish.count)  # several captions of a photo cost as much as several photos
                for job in self._jobs:
                    if job.wish == wish and len(taken) < most:
                        taken.append(job)
                    else:
                        left.append(job)
                self._jobs = left
            # Outside the lock, because a job that was cancelled meanwhile calls `_forget`.
            taken = [job for job in taken if job.found.set_running_or_notify_cancel()]
        return taken

    def _linger(self) -> None:
        """Waits for photos that are being decoded, if there are any."""
        until = time.monotonic() + LINGER
        while self.decoding and len(self._jobs) < self.most and (left := until - time.monotonic()) > 0:
            self._there.wait(left)

    def _captions(self, jobs: list[Job]) -> list[list[Caption]]:
        wish, copies = jobs[0].wish, jobs[0].copies
        if copies > 1:
            wish = replace(wish, count=1)
        pixels = np.repeat(np.stack([job.pixels for job in jobs]), copies, axis=0)
        lanes = max(1, min(self.lanes, len(pixels) // SMALLEST))
        batches = captions_of(self.captioner, np.array_split(pixels, lanes), wish)
        found = [caption for batch in batches for caption in batch]
        drawn = [found[start : start + copies] for start in range(0, len(found), copies)]
        return [[caption for best in each for caption in (best, *best.others)] for each in drawn]

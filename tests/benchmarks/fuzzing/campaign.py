"""Running many cases: workers started, watched, stopped where they hang or grow, and all of it counted."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fuzzing.worker import KINDS

CPU_SECONDS = 20.0  # of processor time that one case may take
WALL_SECONDS = 60.0  # and of time, which on a busy machine is more
START_SECONDS = 300.0
POLL_SECONDS = 0.03
DRIFT_BYTES = 400 << 20  # a worker that cases have left this much in is replaced
KEPT_FAILURES = 40
BENCHMARKS = Path(__file__).resolve().parent.parent


@dataclass
class Failure:
    """A case that must not end as it did."""

    kind: str
    seed: int
    number: int
    outcome: str
    problem: str
    place: str = ""
    notes: str = ""
    kept: Path | None = None

    @property
    def cause(self) -> str:
        """What failures of one root have in common."""
        return f"{self.outcome}: {self.problem.split(':')[0][:60]} at {self.place or '?'}"

    def __str__(self) -> str:
        where = f"\n    kept in {self.kept}" if self.kept else ""
        return (
            f"{self.kind}:{self.seed}:{self.number}  {self.outcome}  {self.place}\n    {self.problem[:400]}\n"
            f"    broken: {self.notes[:300]}{where}"
        )


@dataclass
class Tally:
    """What the cases of one kind came to."""

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0
    largest_bytes: int = 0

    @property
    def tried(self) -> int:
        """Cases in all."""
        return self.counts.total()


class WorkerDied(Exception):
    """The process ended by itself."""


class Worker:
    """A process that runs cases of one kind.

    Parameters
    ----------
    kind : str
    room : Path
        Where sound inputs, cases and logs lie.
    """

    def __init__(self, kind: str, room: Path) -> None:
        self.log = room / f"{kind}.log"
        code = f"from fuzzing.worker import serve; from pathlib import Path; serve({kind!r}, Path({str(room)!r}))"
        paths = [str(BENCHMARKS), *sys.path, os.environ.get("PYTHONPATH", "")]
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
            )
        self.observed = psutil.Process(self.process.pid)
        self._selector = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self._buffer = b""
        ready = self.read(time.monotonic() + START_SECONDS)
        self.baseline_bytes, self.budget_bytes = int(ready["baseline"]), int(ready["budget"])

    def ask(self, **request: Any) -> None:
        """Send a request."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def read(self, deadline: float, watch: Callable[[], None] | None = None) -> dict[str, Any]:
        """Return the next answer; `watch` is called while there is none, and may raise."""
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            if self._selector.select(POLL_SECONDS):
                piece = os.read(self.process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise WorkerDied(self._last_words())
                self._buffer += piece
                continue
            if watch is not None:
                watch()
            if time.monotonic() > deadline:
                raise TimeoutError("no answer")
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "broken" in answer:
            raise RuntimeError(f"the fuzz test itself failed:\n{answer['broken']}")
        return answer

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self._selector.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _last_words(self) -> str:
        code = self.process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        text = self.log.read_text(errors="replace")
        frames = [line.strip() for line in text.splitlines() if line.startswith("  File ")]
        own = [frame for frame in frames if "comir_search" in frame]
        return f"{name}: {(own or frames or ['?'])[0]}"


class _TooLarge(Exception):
    pass


class Campaign:
    """Runs cases of one kind in a worker, which is replaced when it has to be stopped.

    Parameters
    ----------
    kind : str
    seed : int
    room : Path
        Folder for all that is written.
    keep : Path or None
        Where the inputs of failures are kept.
    """

    def __init__(self, kind: str, seed: int, room: Path, keep: Path | None) -> None:
        self.kind, self.seed, self.room, self.keep = kind, seed, room, keep
        self.tally = Tally(kind)
        self._worker: Worker | None = None

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, number: int) -> list[Failure]:
        """Run one case and count it; return how it failed, if it did."""
        if self._worker is None:
            self._worker = Worker(self.kind, self.room)
        worker = self._worker
        started = time.monotonic()
        worker.ask(seed=self.seed, number=number)
        begun = worker.read(started + START_SECONDS)  # writing the case is not what is tried
        failures, outcome = self._watch(worker, number, begun)
        self.tally.counts[outcome] += 1
        self.tally.failures += failures
        self.tally.seconds += time.monotonic() - started
        if failures and self.keep is not None and len(self.tally.failures) <= KEPT_FAILURES:
            kept = self.keep_case(number)
            for failure in failures:
                failure.kept = kept
        return failures

    def _watch(self, worker: Worker, number: int, begun: dict[str, Any]) -> tuple[list[Failure], str]:
        started, cpu = time.monotonic(), _cpu_seconds(worker)
        resident, notes = int(begun["resident"]), "; ".join(begun["notes"])
        highest = resident

        def watch() -> None:
            nonlocal highest
            try:
                highest = max(highest, worker.observed.memory_info().rss)
                if _cpu_seconds(worker) - cpu > CPU_SECONDS:
                    raise TimeoutError
            except psutil.NoSuchProcess:
                return
            if highest - resident > worker.budget_bytes:
                raise _TooLarge

        def fail(outcome: str, problem: str, place: str = "") -> Failure:
            return Failure(self.kind, self.seed, number, outcome, problem, place, notes)

        try:
            answer = worker.read(started + WALL_SECONDS, watch)
        except TimeoutError:
            place = self._stop(dump=True)
            return [fail("hang", f"not done after {time.monotonic() - started:.0f} s", place)], "hang"
        except _TooLarge:
            place = self._stop(dump=True)
            grown = (highest - resident) >> 20
            return [fail("over budget", f"more than {grown} MiB", place)], "over budget"
        except WorkerDied as death:
            self._stop()
            return [fail("crash", str(death))], "raw"
        seconds = time.monotonic() - started
        grown_bytes = max(int(answer["peak"]), highest) - resident
        self.tally.slowest = max(self.tally.slowest, seconds)
        self.tally.largest_bytes = max(self.tally.largest_bytes, grown_bytes)
        failures = [
            fail("raw", f"{step['error']} ({step['name']})", step["place"])
            for step in answer["steps"]
            if step["outcome"] == "raw"
        ]
        failures += [fail("harm", harm) for harm in answer["harms"]]
        if grown_bytes > worker.budget_bytes:
            failures.append(fail("over budget", f"{grown_bytes >> 20} MiB"))
        if worker.observed.memory_info().rss - worker.baseline_bytes > DRIFT_BYTES:
            self._stop()
        if failures:
            return failures, failures[0].outcome
        refused = any(step["outcome"] == "refused" for step in answer["steps"])
        return [], "refused" if refused else "accepted"

    def _stop(self, dump: bool = False) -> str:
        """End the worker; with `dump`, return where in the program it was."""
        if self._worker is None:
            return ""
        place = ""
        if dump and hasattr(signal, "SIGABRT"):
            with self._worker.log.open("r+b") as log:
                log.truncate(0)
            self._worker.process.send_signal(signal.SIGABRT)  # faulthandler writes where it was
            with suppress(subprocess.TimeoutExpired):
                self._worker.process.wait(5)
            text = self._worker.log.read_text(errors="replace")
            own = [line.strip() for line in text.splitlines() if "comir_search" in line]
            place = own[0] if own else ""
        self._worker.stop()
        self._worker = None
        return place

    def keep_case(self, number: int) -> Path:
        """Write the case again where it stays."""
        assert self.keep is not None
        folder = self.keep / f"{self.kind}-{self.seed}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        if self._worker is None:
            self._worker = Worker(self.kind, self.room)
        self._worker.ask(keep=str(folder), seed=self.seed, number=number)
        self._worker.read(time.monotonic() + START_SECONDS)
        return folder


def run_campaign(
    kinds: list[str],
    *,
    seed: int,
    seconds: float,
    cases: int | None = None,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Tally]:
    """Run cases of several kinds.

    Parameters
    ----------
    kinds : list of str
        Of `KINDS`.
    seed : int
    seconds : float
        For each kind; starting a worker is not counted.
    cases : int, optional
        Of each kind, whatever time they take; instead of `seconds`.
    keep : Path, optional
        Where the inputs of failures are kept.
    say : callable
        Called with each failure's text as it is found.

    Returns
    -------
    list of Tally
        One for each kind.
    """
    tallies = []
    with tempfile.TemporaryDirectory(prefix="comir-fuzz-", ignore_cleanup_errors=True) as room:
        for kind in kinds:
            with Campaign(kind, seed, Path(room), keep) as campaign:
                number = 0
                while campaign.tally.seconds < seconds if cases is None else number < cases:
                    for failure in campaign.run(number):
                        say(str(failure))
                    number += 1
            tallies.append(campaign.tally)
    return tallies


def describe(tallies: list[Tally]) -> str:
    """Return the table of what was tried, and the failures by cause."""
    head = (
        "kind",
        "tried",
        "refused",
        "accepted",
        "raw",
        "harm",
        "hangs",
        "over budget",
        "s",
        "slowest s",
        "MiB",
    )
    rows = [
        (
            tally.kind,
            tally.tried,
            *(tally.counts[name] for name in ("refused", "accepted", "raw", "harm", "hang", "over budget")),
            f"{tally.seconds:.0f}",
            f"{tally.slowest:.1f}",
            tally.largest_bytes >> 20,
        )
        for tally in tallies
    ]
    lines = [" ".join(f"{cell!s:>11}" for cell in row) for row in (head, *rows)]
    for tally in tallies:
        causes = Counter(failure.cause for failure in tally.failures)
        examples = {failure.cause: failure for failure in reversed(tally.failures)}
        for cause, count in causes.most_common():
            example = examples[cause]
            lines.append(
                f"{tally.kind}: {count} x {cause}\n    for example --replay "
                f"{example.kind}:{example.seed}:{example.number}  {example.problem[:160]}"
            )
    return "\n".join(lines)


def _cpu_seconds(worker: Worker) -> float:
    times = worker.observed.cpu_times()
    return float(times.user + times.system)


__all__ = ["KINDS", "Campaign", "Failure", "Tally", "describe", "run_campaign"]

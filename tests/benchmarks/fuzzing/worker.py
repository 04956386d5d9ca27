"""The process that runs cases of one kind, one after the other, as `campaign` asks on its standard input.

Each line in is one request, each line out one answer, both JSON.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import io
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.case import Attempt, Case, Kind
from fuzzing.guard import Guard

KINDS = ("images", "models", "indexes", "projects", "checkpoints", "tables")


def load_kind(name: str) -> Kind:
    """Return a kind by its name."""
    kind: Any = import_module(f"fuzzing.{name}")
    return kind


def write_case(kind: str, bases: Path, folder: Path, seed: int, number: int) -> Case:
    """Write a case, the same for the same kind, seed and number."""
    rng = np.random.default_rng([seed, KINDS.index(kind), number])
    return load_kind(kind).write_case(bases, folder, rng)


def serve(kind: str, room: Path) -> None:
    """Answer requests until the input ends."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def answer(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        bases = _prepare(kind, room)
        worker = _Worker(kind, bases, room)
        answer({"baseline": _resident_bytes(), "budget": load_kind(kind).MEMORY_BYTES})
        for line in sys.stdin:
            request = json.loads(line)
            if "keep" in request:
                write_case(kind, bases, Path(request["keep"]), request["seed"], request["number"])
                answer({"kept": True})
            else:
                answer(worker.run(request["seed"], request["number"], answer))
    except Exception:
        answer({"broken": traceback.format_exc()})
        raise


def _prepare(kind: str, room: Path) -> Path:
    """Return the folder of sound inputs, made by the first worker of a campaign."""
    bases = room / "bases" / kind
    if not bases.exists():
        begun = bases.with_name(f"{kind}.begun")
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        load_kind(kind).make_bases(begun)
        begun.rename(bases)
    return bases


class _Worker:
    """Runs cases after it has seen that the sound inputs are accepted."""

    def __init__(self, kind: str, bases: Path, room: Path) -> None:
        self.name, self.kind, self.bases, self.room = kind, load_kind(kind), bases, room
        self.guard = Guard()
        with _folder(room) as folder:
            for case in self.kind.copy_bases(bases, folder):
                values = self._use(case)
                failed = [step for step in values["steps"] if step["outcome"] != "accepted"]
                if failed or values["harms"]:
                    raise AssertionError(f"the sound input {case.target} fails: {failed or values['harms']}")
        trim()

    def run(self, seed: int, number: int, answer: Any) -> dict[str, Any]:
        """Write a case and use it; `answer` is told when the use begins, from where time and memory count."""
        with _folder(self.room) as folder:
            case = write_case(self.name, self.bases, folder / "case", seed, number)
            trim()
            answer({"begun": number, "resident": _resident_bytes(), "notes": case.notes})
            return {"done": number, **self._use(case)}

    def _use(self, case: Case) -> dict[str, Any]:
        attempt, printed = Attempt(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        here, tempfile.tempdir = os.getcwd(), str(case.scratch)
        os.chdir(case.folder)
        start_peak()
        self.guard.start(case)
        started = time.perf_counter()
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                self.kind.act(case, attempt)
        finally:
            seconds = time.perf_counter() - started
            peak = peak_bytes()
            harms = self.guard.stop(case)
            os.chdir(here)
            tempfile.tempdir = None
        return {
            "steps": [asdict(step) for step in attempt.steps],
            "harms": harms,
            "peak": peak,
            "seconds": seconds,
        }


class _folder(tempfile.TemporaryDirectory):
    """A folder for one case, which is deleted whatever lies in it."""

    def __init__(self, room: Path) -> None:
        super().__init__(dir=room, prefix="case-", ignore_cleanup_errors=True)

    def __enter__(self) -> Path:
        return Path(super().__enter__())


def trim() -> None:
    """Give freed memory back, so that what a case takes can be told from what those before it left."""
    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def start_peak() -> None:
    """Let the kernel measure the highest memory from now on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the highest memory since `start_peak`; 0 where the system does not say."""
    return _status_bytes("VmHWM")


def _resident_bytes() -> int:
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) << 10
    return 0

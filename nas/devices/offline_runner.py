"""`python3 run.py` in a bundle, on the board: sends requests.jsonl to a worker and keeps what it answers.

Standard library only. `answers.jsonl` grows by one line for each visit; a batch that was cut off is begun again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

BUNDLE, REQUESTS, ANSWERS, SOURCES = "bundle.json", "requests.jsonl", "answers.jsonl", "worker.zip"


def main() -> int:
    """Run the bundle in the working directory; return the exit status: 0, 2 with one line, or 130."""
    try:
        run()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"run.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run.py: interrupted; the same command continues", file=sys.stderr)
        return 130
    print(f"done: copy this folder back and run: nas profile --import {Path.cwd().name}")
    return 0


def run() -> None:
    """Measure the batches that `answers.jsonl` lacks."""
    about = json.loads(Path(BUNDLE).read_text(encoding="utf-8"))
    check_files(about, [REQUESTS, SOURCES])
    setup, *batches = Path(REQUESTS).read_text(encoding="utf-8").splitlines()
    with Path(ANSWERS).open("a+b") as answers:
        claim(answers)
        done = keep_whole_batches(answers)
        if done == len(batches):
            return
        with start_worker(about["environment"]) as worker:
            try:
                ask(worker, setup)
                record(answers, {"bundle": bundle_id(), **answer_of(worker)})
                for number in range(done, len(batches)):
                    batch = json.loads(batches[number])
                    check_files(about, [graph["path"] for graph in batch["graphs"]])
                    ask(worker, batches[number])
                    follow(worker, answers, f"batch {number + 1}/{len(batches)}", batch)
            finally:
                worker.kill()


def claim(answers: IO[bytes]) -> None:
    """Lock the file until this process ends. Raises RuntimeError where another holds it."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock
        return
    try:
        fcntl.flock(answers, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RuntimeError(f"{ANSWERS}: another run.py is at work in this folder") from None


def check_files(about: dict[str, Any], names: list[str]) -> None:
    """Raise RuntimeError where a file is not as it was written."""
    for name in names:
        inside = sorted(known for known in about["digests"] if known == name or known.startswith(f"{name}/"))
        if not inside:
            raise RuntimeError(f"{name}: not in {BUNDLE}")
        for known in inside:
            if digest(Path(known)) != about["digests"][known]:
                raise RuntimeError(f"{known}: not as it was written; copy the folder again")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bundle_id(folder: Path = Path()) -> str:
    """Return what tells this bundle from every other."""
    return digest(folder / BUNDLE)


def keep_whole_batches(answers: IO[bytes]) -> int:
    """Cut the file back to the end of its last whole batch and return how many there are."""
    answers.seek(0)
    content = answers.read()
    end = done = position = 0
    for line in content.splitlines(keepends=True):
        position += len(line)
        if line == b'{"done": true}\n':
            end, done = position, done + 1
    answers.truncate(end)
    answers.seek(0, os.SEEK_END)
    return done


def start_worker(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Return a started worker of the sources in the bundle."""
    return subprocess.Popen(
        [sys.executable, "-m", "nas.devices.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment, "PYTHONPATH": SOURCES},
    )


def ask(worker: subprocess.Popen[bytes], line: str) -> None:
    """Send one line."""
    assert worker.stdin is not None
    worker.stdin.write(line.encode() + b"\n")
    worker.stdin.flush()


def answer_of(worker: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return the next answer. Raises RuntimeError where the worker ended or says what is wrong."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line.endswith(b"\n"):
        raise RuntimeError(f"the worker ended with status {worker.wait()}; the same command continues")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def record(answers: IO[bytes], answer: dict[str, Any]) -> None:
    """Write one answer."""
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


def follow(worker: subprocess.Popen[bytes], answers: IO[bytes], name: str, batch: dict[str, Any]) -> None:
    """Record the answers of a batch, with a line of progress about every ten seconds."""
    total, visits, shown = len(batch["graphs"]) * batch["protocol"]["visits"], 0, time.monotonic()
    while "done" not in (answer := answer_of(worker)):
        if "ms" in answer:
            record(answers, answer)
            visits += 1
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"{name}: {visits}/{total} visits", file=sys.stderr, flush=True)
    record(answers, answer)
    os.fsync(answers.fileno())
    print(f"{name}: done", file=sys.stderr, flush=True)

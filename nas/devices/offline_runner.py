"""Offline runner: `python3 run.py` in a bundle, on the device.

Sends the lines of requests.jsonl to a worker and writes its answers to answers.jsonl, one line per sample. A batch that
was cut off is measured again. Standard library only.
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
    """Run the bundle in the working directory. Return 0, 2 after an error (in one line), or 130 after an interrupt."""
    try:
        run()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"run.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run.py: interrupted; run the same command to continue", file=sys.stderr)
        return 130
    print(f"done: copy this folder back and run: nas profile --import {Path.cwd().name}")
    return 0


def run() -> None:
    """Measure the batches that answers.jsonl lacks."""
    about = json.loads(Path(BUNDLE).read_text(encoding="utf-8"))
    check_files(about, [REQUESTS, SOURCES])
    setup, *batches = Path(REQUESTS).read_text(encoding="utf-8").splitlines()
    with Path(ANSWERS).open("a+b") as answers:
        lock_answers(answers)
        done = keep_whole_batches(answers)
        if done == len(batches):
            return
        with start_worker(about["environment"]) as worker:
            try:
                send(worker, setup)
                write_answer(answers, {"bundle": bundle_id(), **read_answer(worker)})
                for number in range(done, len(batches)):
                    batch = json.loads(batches[number])
                    check_files(about, [graph["path"] for graph in batch["graphs"]])
                    send(worker, batches[number])
                    record_batch(worker, answers, f"batch {number + 1}/{len(batches)}", batch)
            finally:
                worker.kill()


def lock_answers(answers: IO[bytes]) -> None:
    """Lock the file until this process ends. Raises RuntimeError if another process holds the lock."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock
        return
    try:
        fcntl.flock(answers, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RuntimeError(f"{ANSWERS}: another run.py is running in this folder") from None


def check_files(about: dict[str, Any], names: list[str]) -> None:
    """Raise RuntimeError if a file was modified after the bundle was written."""
    for name in names:
        inside = sorted(known for known in about["digests"] if known == name or known.startswith(f"{name}/"))
        if not inside:
            raise RuntimeError(f"{name}: is not listed in {BUNDLE}")
        for known in inside:
            if digest(Path(known)) != about["digests"][known]:
                raise RuntimeError(f"{known}: was modified after the bundle was written; copy the folder again")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bundle_id(folder: Path = Path()) -> str:
    """Return the digest that identifies a bundle."""
    return digest(folder / BUNDLE)


def keep_whole_batches(answers: IO[bytes]) -> int:
    """Cut the file after its last complete batch and return the number of complete batches."""
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
    """Start a worker from the sources in the bundle."""
    return subprocess.Popen(
        [sys.executable, "-m", "nas.devices.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment, "PYTHONPATH": SOURCES},
    )


def send(worker: subprocess.Popen[bytes], line: str) -> None:
    """Send one line to the worker."""
    assert worker.stdin is not None
    worker.stdin.write(line.encode() + b"\n")
    worker.stdin.flush()


def read_answer(worker: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return the worker's next answer. Raises RuntimeError if the worker ended or reports an error."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line.endswith(b"\n"):
        raise RuntimeError(f"the worker ended with status {worker.wait()}; run the same command to continue")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def write_answer(answers: IO[bytes], answer: dict[str, Any]) -> None:
    """Append one answer to the file."""
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


def record_batch(worker: subprocess.Popen[bytes], answers: IO[bytes], name: str, batch: dict[str, Any]) -> None:
    """Record the answers of a batch; print the progress about every ten seconds."""
    total, samples, shown = len(batch["graphs"]) * batch["protocol"]["visits"], 0, time.monotonic()
    while "done" not in (answer := read_answer(worker)):
        if "ms" in answer:
            write_answer(answers, answer)
            samples += 1
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"{name}: {samples}/{total} samples", file=sys.stderr, flush=True)
    write_answer(answers, answer)
    os.fsync(answers.fileno())
    print(f"{name}: done", file=sys.stderr, flush=True)

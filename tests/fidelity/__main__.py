"""Judge engines: python -m tests.fidelity CORPUS_DIR [--engine copy] [--make].

Prints a verdict for every media file in the folder, and the totals. `--make` first makes the clips that are missing.
"""

# ruff: noqa: T201 -- a command that prints its findings
from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from .clips import make_clips
from .compare import Verdict
from .engines import ENGINES, TRIALS
from .judge import judge
from .probe import ProbeFailed, read_streams

SUFFIXES = {".mp4", ".mov", ".m4v", ".m4a", ".qt", ".3gp", ".mkv", ".webm", ".ts"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fidelity", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument(
        "--engine", action="append", choices=sorted(ENGINES | TRIALS), help="may be repeated; default: all"
    )
    parser.add_argument("--make", action="store_true", help="make the clips in CORPUS first (those that are missing)")
    parser.add_argument("--only", default="", help="only files whose name contains this")
    options = parser.parse_args()
    if options.make:
        make_clips(options.corpus)
    names = options.engine or sorted(ENGINES)
    files = [path for path in sorted(options.corpus.rglob("*")) if path.suffix.lower() in SUFFIXES]
    files = [path for path in files if options.only in path.name]
    totals = {name: Counter[Verdict]() for name in names}
    for path in files:
        _judge_file(path, names, totals)
    for name in names:
        line = ", ".join(f"{totals[name][verdict]} {verdict.name.lower()}" for verdict in Verdict)
        print(f"{name}: {line} of {len(files)}")
    return 0


def _judge_file(path: Path, names: list[str], totals: dict[str, Counter[Verdict]]) -> None:
    try:
        streams = read_streams(path)
    except ProbeFailed as error:
        print(f"{path.name:45} not media: {error}")
        return
    for name in names:
        judgement = judge(path, (ENGINES | TRIALS)[name], streams)
        totals[name][judgement.finding.verdict] += 1
        alone = "" if judgement.alone.verdict is Verdict.EXACT else f" [{judgement.alone.reason}]"
        verdict = judgement.finding.verdict.name.lower()
        print(
            f"{path.name:45} {name:7} {judgement.segments:3} {verdict:8} {judgement.finding.reason}{alone}", flush=True
        )


if __name__ == "__main__":
    sys.exit(main())

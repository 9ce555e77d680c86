"""How fast kvplan starts and sizes. Run it: ``python tests/benchmarks/run.py`` (not a timed test).

Start-up: the median wall time of ``kvplan size --model llama-70b --ctx 128k --json`` over 20 runs, beside that of
``python -c "import typer"`` and of the peers that are installed, taken in turns so that all meet the same machine.
Sweep: (model, context, format) combinations sized per second through the Python API on one core.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 20
CONTEXTS = [1024 * step for step in range(1, 129)]
FORMATS = ("bf16", "fp8", "int8", "int4", "nvfp4")


def commands() -> dict[str, list[str]]:
    """What is timed, by name; peers only where they are installed."""
    script = Path(sys.executable).with_name("kvplan")
    found = {
        "import typer": [sys.executable, "-c", "import typer"],
        "kvplan size": [str(script), "size", "--model", "llama-70b", "--ctx", "128k", "--json"],
    }
    for peer, arguments in (("hf-mem", ["--help"]), ("llmfit", ["--help"]), ("fitllm", ["--help"])):
        path = shutil.which(peer)
        if path:
            found[peer + " --help"] = [path, *arguments]
    return found


def time_commands() -> dict[str, float]:
    """Median seconds of each command; one run of each in turn, after one that warms the file cache."""
    timings: dict[str, list[float]] = {name: [] for name in commands()}
    for turn in range(RUNS + 1):
        for name, command in commands().items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            if turn:
                timings[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in timings.items()}


def time_sweep() -> tuple[int, float]:
    """Combinations sized, and the seconds they took."""
    from kvplan.core.errors import UnsupportedError
    from kvplan.formats import parse_kv_format
    from kvplan.planning.sweep import sweep
    from kvplan.specs.catalogue import load_found, spec_files

    models = [load_found(path) for path in spec_files()]
    start = time.perf_counter()
    count = 0
    for model in models:
        for name in FORMATS:
            try:
                count += sum(1 for _ in sweep([model], CONTEXTS, [parse_kv_format(name, model.dtype)]))
            except UnsupportedError:
                continue
    return count, time.perf_counter() - start


def main() -> None:
    """Print both."""
    medians = time_commands()
    bare = medians["import typer"]
    for name, seconds in medians.items():
        print(f"{name:20} {seconds * 1000:8.1f} ms   {seconds / bare:5.2f}x the bare typer import")
    count, seconds = time_sweep()
    print(f"{'sweep':20} {count / seconds:10,.0f} combinations a second ({count:,} in {seconds:.2f} s)")


if __name__ == "__main__":
    main()

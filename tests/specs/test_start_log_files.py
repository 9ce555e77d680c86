"""What a log file may look like, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from start_logs import LOGS, in_gib, parse

from kvplan.core.errors import FileError
from kvplan.core.measured import FIGURES
from kvplan.specs import log_lines
from kvplan.specs.start_log import read_start_log


def test_colours_timestamps_and_progress_bars_do_no_harm(tmp_path: Path) -> None:
    plain = (LOGS / "vllm-0.25.1-h200-gptoss20b.log").read_text().splitlines()
    dressed = [
        "2026-11-23T14:53:49.123456789Z stderr F \x1b[0;36m(EngineCore pid=7)\x1b[0;0m "
        + line.replace("GiB", "\x1b[1mGiB")
        for line in plain
    ]
    path = tmp_path / "server.log"
    path.write_bytes(b"Loading shards:   0%|  | 0/4\rLoading shards: 100%|##| 4/4\r" + "\r\n".join(dressed).encode())
    assert read_start_log(path) == read_start_log(LOGS / "vllm-0.25.1-h200-gptoss20b.log")


def test_a_log_that_powershell_redirected_is_read(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    text = (LOGS / "vllm-0.25.1-h200-llama8b.log").read_text()
    path.write_text(text, encoding="utf-16")
    assert read_start_log(path) == parse(text)


def test_a_json_line_of_docker_is_read() -> None:
    start = parse(r'{"log":"\u001b[32mINFO\u001b[0m [x.py:1] Available KV cache memory: 8.11 GiB\n","stream":"stderr"}')
    assert in_gib(start, "kv_cache_bytes") == (8.11,)


OTHERS = {
    "another engine": "[06/17/2025-16:35:04] [TRT-LLM] [RANK 0] [I] Max KV cache blocks: 4096, 41.7 GiB\n" * 20,
    "a web server": '10.0.0.1 - - [23/Nov/2026:14:50:31 +0000] "GET /v1/models HTTP/1.1" 200 512\n' * 20,
    "a training run that failed": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n",
    "garbage": "GiB (((( 15.0 %%%% server_args= KV cache size tokens \u0000\n".replace("\u0000", ""),
    "blank lines": "\n\n \n",
}


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_a_log_of_another_program_is_refused_with_what_is_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.log"
    path.write_text(text)
    with pytest.raises(FileError) as caught:
        read_start_log(path)
    assert str(path) in caught.value.message
    assert caught.value.hint is not None
    assert "vLLM" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "is binary"),
        (b"\x1f\x8b\x08\x00log", "is compressed"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_bytes(content)
    with pytest.raises(FileError, match=words):
        read_start_log(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.log"):
        with pytest.raises(FileError, match="cannot be read"):
            read_start_log(path)


def test_a_huge_file_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    with path.open("wb") as file:
        file.write(b"INFO\n")
        file.truncate(log_lines.MAX_LOG_BYTES + 1)
    with pytest.raises(FileError, match=r"64\.00 MiB are read") as caught:
        read_start_log(path)
    assert "head -n" in (caught.value.hint or "")


@pytest.mark.parametrize("path", sorted(LOGS.iterdir()), ids=lambda path: path.stem)
def test_a_log_that_ends_anywhere_is_read_as_far_as_it_goes(path: Path) -> None:
    text, whole = path.read_text(), read_start_log(path)
    for end in range(1, len(text), 61):
        try:
            start = parse(text[:end])
        except FileError:
            continue  # nothing of a start yet
        assert start.engine == whole.engine
        for name in (*FIGURES, "capacity_tokens"):
            size = getattr(start, name)
            assert size is None or size <= getattr(whole, name), (name, end)  # llama.cpp's cache comes in parts


def test_broken_numbers_are_silence_and_no_failure() -> None:
    start = parse("""
INFO [x.py:1] Model loading took 1.2.3 GiB and 2 seconds
INFO [x.py:1] GPU KV cache size: ,,, tokens
INFO [x.py:1] Maximum concurrency for 99999999999999999999999 tokens per request: 1.2.3x
INFO [x.py:1] Available KV cache memory: ... GiB
""")
    assert (start.weights_bytes, start.capacity_tokens, start.max_concurrency, start.kv_cache_bytes) == (None,) * 4
    assert start.arguments.max_seq_len is None

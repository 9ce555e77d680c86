"""Traces in each public format, made up in the shape of the real ones, and what is wrong with malformed ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from kvplan.core.errors import FileError
from kvplan.core.workload import Workload
from kvplan.specs.trace_file import read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-17 00:00:00.0000000,110,27
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-12 00:00:00.001163+00:00,100,5
2024-05-12 02:00:01+02:00,200,6
"""
AZURE_IMAGES = """TIMESTAMP,NumImages,ContextTokens,GeneratedTokens
2024-10-15 00:00:00,2,1000,5
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,0,417,API log
"""
BURST_SESSIONS = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5.5,a,1.0,ChatGPT,472,18,490,Conversation log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 915, "output_length": 355, "hash_ids": [0, 462]}
{"timestamp": 3000, "input_length": 2012, "output_length": 354, "hash_ids": [0, 427, 428, 429]}
"""
BAILIAN = """{"chat_id": 159, "parent_chat_id": 55, "timestamp": 61.114, "input_length": 21, "output_length": 132, \
"type": "text", "turn": 2, "hash_ids": [1089, 1090]}
"""
OWN = """{"arrival_seconds": 2, "prompt_tokens": 10, "output_tokens": 3}
{"arrival_seconds": 0.5, "prompt_tokens": 40, "output_tokens": 4, "hash_ids": ["a", "b"], "hash_block_tokens": 16}
"""


def read(tmp_path: Path, text: str) -> Workload:
    path = tmp_path / "trace"
    path.write_text(text, encoding="utf-8")
    return read_trace(path)


def test_azure_dates_become_seconds_from_the_first(tmp_path: Path) -> None:
    trace = read(tmp_path, AZURE)
    assert [request[1:] for request in trace.requests] == [(4808, 10, ()), (3180, 8, ()), (110, 27, ())]
    assert [request.arrival_seconds for request in trace.requests] == pytest.approx([0, 0.052, 20576.02004], abs=1e-5)
    assert trace.source == "trace (Azure LLM inference trace)"
    assert trace.hash_block_tokens is None


def test_azure_zones_are_honoured(tmp_path: Path) -> None:
    trace = read(tmp_path, AZURE_2024)
    assert [request.arrival_seconds for request in trace.requests] == pytest.approx([0, 0.998837], abs=1e-5)


def test_azure_rows_may_count_images(tmp_path: Path) -> None:
    assert read(tmp_path, AZURE_IMAGES).requests == ((0, 1000, 5, ()),)


def test_burstgpt_failures_are_left_out_and_counted(tmp_path: Path) -> None:
    trace = read(tmp_path, BURST)
    assert trace.requests == ((0, 472, 18, ()), (40, 1087, 230, ()))
    assert trace.notes == ("1 rows without prompt or output tokens (failed requests) are left out",)


def test_burstgpt_with_sessions(tmp_path: Path) -> None:
    assert read(tmp_path, BURST_SESSIONS).requests == ((0, 472, 18, ()),)


def test_mooncake_hashes_stand_for_512_tokens_and_times_are_milliseconds(tmp_path: Path) -> None:
    trace = read(tmp_path, MOONCAKE)
    assert trace.requests == ((0, 915, 355, (0, 462)), (3, 2012, 354, (0, 427, 428, 429)))
    assert trace.hash_block_tokens == 512


def test_bailian_hashes_stand_for_16_tokens(tmp_path: Path) -> None:
    trace = read(tmp_path, BAILIAN)
    assert trace.requests == ((0, 21, 132, (1089, 1090)),)
    assert trace.hash_block_tokens == 16
    assert trace.source == "trace (Qwen-Bailian)"


def test_own_lines_are_put_in_order(tmp_path: Path) -> None:
    trace = read(tmp_path, OWN)
    assert trace.requests == ((0, 40, 4, ("a", "b")), (1.5, 10, 3, ()))
    assert trace.hash_block_tokens == 16
    assert trace.notes == ("the file is not in the order of arrival: it was sorted",)


def test_own_csv(tmp_path: Path) -> None:
    text = "arrival_seconds,prompt_tokens,output_tokens\n0,10,3\n2024-05-12 00:00:00,1,1\n"
    assert read(tmp_path, text).requests[0] == (0, 10, 3, ())


@pytest.mark.parametrize("text", [AZURE, BURST, MOONCAKE, BAILIAN, OWN])
def test_a_gzipped_file_a_byte_order_mark_and_empty_lines_change_nothing(tmp_path: Path, text: str) -> None:
    zipped = tmp_path / "trace.gz"
    zipped.write_bytes(gzip.compress(b"\xef\xbb\xbf\r\n" + text.replace("\n", "\r\n\r\n").encode()))
    assert read_trace(zipped).requests == read(tmp_path, text).requests


HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
FIRST = '{"timestamp": 0, "input_length": 9, "output_length": 1, "hash_ids": [0]}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no trace of requests"),
        (HEADER, "holds no requests"),
        (BURST.splitlines()[0] + "\n5,GPT-4,1,0,1,x\n", "holds no requests .1 failed"),
        ("name,age\nx,3\n", "first row has age, name"),
        ("[1, 2]\n", "is no trace of requests"),
        (HEADER + "yesterday,1,1\n", "line 2: arrival 'yesterday' is not a date"),
        (HEADER + "2023-13-16 18:17:03,1,1\n", "line 2: arrival .* is not a date that exists"),
        (HEADER + "2023-11-16 18:17:03,1,1\n\n2023-11-16 18:17:03,1\n", "line 4: has 2 fields, the header 3"),
        (HEADER + "2023-11-16 18:17:03,-1,1\n", "line 2: contexttokens '-1' is not a number of tokens"),
        (HEADER + "2023-11-16 18:17:03,1.5,1\n", "line 2: contexttokens '1.5' is not"),
        (HEADER + "2023-11-16 18:17:03,1,\n", "line 2: generatedtokens '' is not"),
        (BURST.splitlines()[0] + "\nnan,GPT-4,1,1,2,x\n", "line 2: arrival 'nan' is not a number of seconds"),
        (FIRST + "{", "line 2: is not valid JSON"),
        (FIRST + "[]", "line 2: is not a JSON object"),
        (FIRST + '{"timestamp": 0, "input_length": 9}', "line 2: has no output_length"),
        (FIRST + '{"timestamp": 0, "input_length": true, "output_length": 1}', "line 2: input_length True is not"),
        (FIRST + '{"timestamp": NaN, "input_length": 1, "output_length": 1}', "line 2: arrival nan is not"),
        (FIRST + '{"timestamp": 0, "input_length": 1e30, "output_length": 1}', "line 2: input_length 1e.30 is not"),
        (FIRST.replace("[0]", "[0.5]"), "line 1: hash_ids is not a list"),
        (FIRST.replace("[0]", "7"), "line 1: hash_ids is not a list"),
        (OWN.replace(', "hash_block_tokens": 16', ""), "line 2: hash_block_tokens missing"),
        (OWN + OWN.replace(": 16", ": 32"), "line 4: hash_block_tokens is 32, in the rows before 16"),
    ],
)
def test_malformed_files_are_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        read(tmp_path, text)


def test_what_is_no_text_or_no_file_is_refused(tmp_path: Path) -> None:
    binary, cut = tmp_path / "binary", tmp_path / "cut.gz"
    binary.write_bytes(b"\x80\x81\x82" * 100)
    cut.write_bytes(gzip.compress(AZURE.encode())[:-12])
    with pytest.raises(FileError, match="not a text file"):
        read_trace(binary)
    with pytest.raises(FileError, match="damaged or cut short"):
        read_trace(cut)
    for missing in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(FileError, match="cannot be read"):
            read_trace(missing)

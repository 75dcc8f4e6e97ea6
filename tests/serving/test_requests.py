"""Streams of requests: what readers accept and refuse, and what generators promise."""

import gzip
import tracemalloc

import numpy as np
import pytest

from simkit.foundation.errors import UserError
from simkit.serving import traces
from simkit.serving.generate import generate, parse_arrivals, parse_lengths
from simkit.serving.requests import Dealing
from simkit.serving.traces import read_trace
from tests.reference_data import reference_path

KINDS = {
    "simkit": "arrival_s,prompt_tokens,output_tokens\n5.0,10,20\n6.5,30,40\n",
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n5.0,10,20\n6.5,30,40\n",
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5000000,10,20\n2023-11-16 18:15:48.0000000,30,40\n",
    "azure-2024": "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-12 00:00:00+00:00,10,20\n2024-05-12 00:00:01.5+00:00,30,40\n",
    "mooncake": '{"timestamp": 5000, "input_length": 10, "output_length": 20, "hash_ids": [1]}\n'
                '{"timestamp": 6500, "input_length": 30, "output_length": 40, "hash_ids": [2]}\n',
}


def whole(stream):
    parts = list(stream.chunks())
    return [np.concatenate([getattr(part, name) for part in parts]).tolist()
            for name in ("arrival_s", "prompt_tokens", "output_tokens")]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("packed", [False, True])
def test_every_kind_of_trace_reads_the_same(kind, packed, tmp_path):
    file = tmp_path / ("trace.gz" if packed else "trace")
    file.write_bytes(gzip.compress(KINDS[kind].encode()) if packed else KINDS[kind].encode())
    assert whole(read_trace(file)) == [[0.0, 1.5], [10, 30], [20, 40]]


@pytest.mark.parametrize(("text", "message"), [
    ("", r"trace\.csv: is empty"),
    ("a,b,c\n1,2,3\n", r"trace\.csv:1: the header is 'a,b,c'.*arrival_s, prompt_tokens, output_tokens"),
    ("arrival_s,prompt_tokens,output_tokens\n0,10\n", r"trace\.csv:2: 2 cells, expected 3"),
    ("arrival_s,prompt_tokens,output_tokens\n0,10,20\nsoon,10,20\n", r"trace\.csv:3: arrival_s: 'soon' is not a time"),
    ("arrival_s,prompt_tokens,output_tokens\n0,0,20\n", r"trace\.csv:2: prompt_tokens: '0' is not a whole number"),
    ("arrival_s,prompt_tokens,output_tokens\n0,10,-1\n", r"trace\.csv:2: output_tokens: '-1' is not a whole number"),
    ("arrival_s,prompt_tokens,output_tokens\n5,1,1\n4,1,1\n", r"trace\.csv:3: requests are not in order of arrival"),
    ("arrival_s,prompt_tokens,output_tokens\n", r"trace\.csv: holds no request"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n16.11.2023,1,1\n", r"trace\.csv:2: TIMESTAMP: '16.11.2023' is not a time such"),
    ('{"timestamp": 0, "input_length": 1, "output_length": 1}\nnot json\n', r"trace\.csv:2: not JSON"),
    ('{"timestamp": 0}\n', r"trace\.csv:1: expected the keys timestamp, input_length, output_length"),
])
def test_a_wrong_trace_is_refused_with_file_and_line(text, message, tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        whole(read_trace(file))


def test_a_trace_that_is_not_there_or_not_text_is_said_in_words(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_trace(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81" * 100)
    with pytest.raises(UserError, match="not UTF-8"):
        read_trace(tmp_path / "binary.csv")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(KINDS["simkit"].encode() * 100)[:60])
    with pytest.raises(UserError, match="cannot read"):
        whole(read_trace(tmp_path / "cut.gz"))


def test_a_long_trace_takes_no_more_memory_than_a_short_one(tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "CHUNK_REQUESTS", 1024)
    peaks = []
    for rows in (4_000, 12_000):
        file = tmp_path / f"{rows}.csv"
        with file.open("w", encoding="utf-8") as stream:
            stream.write("arrival_s,prompt_tokens,output_tokens\n")
            stream.writelines(f"{row},10,20\n" for row in range(rows))
        tracemalloc.start()
        count = sum(part.arrival_s.size for part in read_trace(file).chunks())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == rows
    assert peaks[1] < 1.1 * peaks[0]


def test_the_azure_trace_is_read_and_its_generator_has_its_statistics():
    """Azure LLM inference trace 2023, conversation: 19 366 requests; means to 3 %, quantiles to 8 %, arrivals' CV to 3 %."""
    real = [np.array(column) for column in whole(read_trace(reference_path("requests_azure_conv_2023.csv.gz")))]
    assert real[0].size == 19_366
    law = parse_lengths("azure-conv-2023")
    made = [np.array(column) for column in whole(
        generate(law, requests_per_s=5.53, gap_cv=law.gap_cv, requests=100_000, seed=0))]
    for column in (1, 2):
        assert made[column].mean() == pytest.approx(real[column].mean(), rel=0.03)
        for share in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
            assert np.quantile(made[column], share) == pytest.approx(np.quantile(real[column], share), rel=0.08)
    gaps, real_gaps = np.diff(made[0]), np.diff(real[0])
    assert gaps.mean() == pytest.approx(real_gaps.mean(), rel=0.01)
    assert gaps.std() / gaps.mean() == pytest.approx(real_gaps.std() / real_gaps.mean(), rel=0.03)


@pytest.mark.parametrize("cv", [0.5, 1.0, 4.0])
def test_gaps_have_the_mean_and_spread_asked_for(cv):
    gaps = np.diff(whole(generate(parse_lengths("1/1"), requests_per_s=3.0, gap_cv=cv, requests=200_000, seed=7))[0])
    assert gaps.mean() == pytest.approx(1 / 3, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)


def test_length_laws_have_their_mean_and_bounds():
    columns = [np.array(column) for column in whole(generate(
        parse_lengths("lognormal:1000:0.8/uniform:10:20"), requests_per_s=1.0, gap_cv=1.0, requests=100_000, seed=3))]
    assert columns[1].mean() == pytest.approx(1000, rel=0.02)
    assert columns[1].std() == pytest.approx(800, rel=0.05)
    assert (columns[2].min(), columns[2].max()) == (10, 20)


def test_dealing_a_stream_to_replicas_loses_no_request():
    stream = generate(parse_lengths("uniform:1:1000/5"), requests_per_s=1.0, gap_cv=1.0, requests=40_000, seed=0,
                      shared_prefix=(512, 50))
    bare = generate(parse_lengths("10/5"), requests_per_s=1.0, gap_cv=1.0, requests=7, seed=0)
    assert [len(whole(bare.share_of(which, Dealing(replicas=3)))[0]) for which in range(3)] == [3, 2, 2]
    for dealing in (Dealing(replicas=3), Dealing(replicas=3, by_prefix=True), Dealing(replicas=3, lost=2, lost_s=9e3),
                    Dealing(replicas=3, lost=3, lost_s=9e3)):
        dealt = [whole(stream.share_of(which, dealing)) for which in range(3)]
        merged = sorted(request for part in dealt for request in zip(*part, strict=True))
        assert merged == sorted(zip(*whole(stream), strict=True))
        if dealing.by_prefix:  # whoever begins alike is dealt alike, and the 50 beginnings are spread
            begun = [{number for part in stream.share_of(which, dealing).chunks()
                      for number in part.numbers[part.first].tolist()} for which in range(3)]
            assert sum(map(len, begun)) == len(set.union(*begun)) == 50
            assert min(map(len, begun)) > 8
        if dealing.lost == 2:
            assert [max(part[0]) > 9e3 for part in dealt] == [True, False, False]


@pytest.mark.parametrize("text", ["", "azure", "10", "10/", "lognormal:10/5", "0/5", "uniform:9:2/5", "10/20/30"])
def test_unknown_lengths_are_refused(text):
    with pytest.raises(UserError, match="lengths"):
        parse_lengths(text)


@pytest.mark.parametrize("text", ["", "poison", "gamma", "gamma:0", "gamma:-1", "gamma:99"])
def test_unknown_arrivals_are_refused(text):
    with pytest.raises(UserError, match="expected poisson or gamma:CV"):
        parse_arrivals(text)

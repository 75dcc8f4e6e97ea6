"""Files that are no files, never end, or lead elsewhere; and words that would steer a terminal: told in a line, at once."""

import gzip
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from simkit.claims.tested_claims import read_claims
from simkit.evidence.dram import read_runs
from simkit.evidence.served_models import read_rows
from simkit.evidence.silicon.tables import read_table
from simkit.foundation.errors import UserError
from simkit.foundation.input_file import open_text, read_bytes
from simkit.hardware.catalog import load_hardware
from simkit.model.catalog import load_model
from simkit.model.checkpoint import open_checkpoint
from simkit.model.import_config import import_config
from simkit.model.tensor_files import read_entries
from simkit.serving.runtime import load_runtime
from simkit.serving.traces import read_trace
from simkit.study.study_file import load_study
from simkit.study.workload_file import load_workload


def _trace(path):
    return [len(chunk.arrival_s) for chunk in read_trace(path).chunks()]


READERS = {
    "profile": load_hardware, "model": load_model, "study": load_study, "claims": read_claims, "workload": load_workload,
    "runtime": lambda path: load_runtime(str(path)), "config.json": import_config, "tensors": read_entries, "trace": _trace,
    "kernel table": read_table, "DRAM table": read_runs, "serving table": read_rows,
}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices have no place in the file system there")


@contextmanager
def at_once(seconds=240):
    """A reader that waits or never ends fails instead of hanging the tests: no bound on how fast it is."""
    def give_up(*_):
        raise TimeoutError("still reading")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


@pytest.fixture(params=["pipe", "endless device", "link to a device", "folder", "links in a circle", "link to nothing", "socket of no file", "terabyte"])
def no_file(request, tmp_path):
    path = tmp_path / "input.yaml"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "endless device":
        return Path("/dev/zero")
    elif request.param == "link to a device":
        path.symlink_to("/dev/zero")
    elif request.param == "folder":
        path.mkdir()
    elif request.param == "links in a circle":
        path.symlink_to(path)
    elif request.param == "link to nothing":
        path.symlink_to(tmp_path / "gone")
    elif request.param == "socket of no file":
        import socket

        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        with path.open("wb") as stream:
            stream.truncate(10**12)  # sparse: takes no room on the disk
    return path


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the socket is left to the test's folder
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_or_has_no_end_is_refused_at_once(reader, no_file):
    with at_once(), pytest.raises(UserError) as caught:
        READERS[reader](no_file)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_a_pipe_inside_a_checkpoint_is_refused_at_once(name, tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 8, "num_attention_heads": 4, "num_hidden_layers": 1, "rms_norm_eps": 1e-5}', encoding="utf-8")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with at_once(), pytest.raises(UserError, match="pipe or a device"):
        open_checkpoint(tmp_path)


def test_a_packed_file_is_judged_by_what_it_holds(tmp_path):
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b"0" * 60_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="larger than 50,000,000 bytes"):
        read_table(path)
    assert read_bytes(path, most_bytes=100_000) == path.read_bytes()  # and only where packed files are read
    with open_text(path) as stream:
        assert stream.read(10) == "0" * 10


@pytest.mark.parametrize("option", ["--batch", "--kv-len", "--q-len"])
@pytest.mark.parametrize("text", ["0..1e18+1", "1..1e300*1.0000001", "1..999999999999999999+1", "1..9*1.000000000000000001",
                                  ",".join(["1..999999+1"] * 2000), "1," * 60_000])
def test_a_range_without_end_is_refused_before_it_is_made(cli, option, text):
    with at_once():
        result = cli("simulate", option, text)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr) < 500


HOSTILE_WORDS = ["\x1b]0;title\x07", "\x9b31m\x7f", "a\r\u202egnp"]
COMMANDS = [["simulate", "-H"], ["simulate", "-M"], ["simulate", "-A"], ["simulate", "--engine"], ["simulate", "--kv-dtype"], ["simulate", "--set"],
            ["simulate", "--format"], ["simulate", "--eviction"], ["simulate", "--speculation"], ["simulate", "--lengths"], ["simulate", "-W"],
            ["simulate", "--profiles"], ["profile", "show"], ["profile", "new"], ["profile", "check"], ["model", "import"], ["report"],
            ["serve", "--trace"], ["claims"], ["sweep"], ["evidence", "dram", "--data"], ["stack"], []]


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(command) or "no command" for command in COMMANDS])
def test_no_word_of_the_command_line_reaches_the_terminal_raw(cli, command):
    for word in HOSTILE_WORDS:
        result = cli(*command, word)
        assert result.exit_code == 2, (command, word, result.output[:300])
        assert all(line.isprintable() for line in result.output.split("\n")), (command, word, result.output[:300])


def test_names_in_a_table_of_measurements_cannot_steer_the_terminal(cli, tmp_path):
    head = "system,kv_dtype,head_dim,n_q_heads,n_kv_heads,batch,kv_len,latency_us_best\n"
    (tmp_path / "x.csv").write_text(head + "\x1b[31ma100_sxm,bf16,128,64,8,32,4096,98.0\n=1+1,bf16,128,64,8,32,4096,98.0\n", encoding="utf-8")
    for form in ("table", "csv", "json"):
        result = cli("evidence", "silicon", "--data", "x.csv", "--format", form)
        assert all(line.isprintable() for line in result.output.split("\n")), result.output
        assert form != "csv" or "\n=1+1" not in result.stdout  # as text, where no spreadsheet would run it


def test_a_key_of_a_config_cannot_steer_the_terminal(cli, tmp_path):
    (tmp_path / "c.json").write_text(
        '{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32, "vocab_size": 32000,'
        ' "\\u001b[2J": 1, "\\u202e": 2}', encoding="utf-8")
    result = cli("model", "import", "c.json", "--name", "x")
    assert result.exit_code == 0
    assert r"\x1b[2J" in result.stderr
    assert all(line.isprintable() for line in result.output.split("\n")), result.output


@pytest.mark.parametrize("name", ["../x", "/etc/x", "..", ".x", "x/../../y", "x\0y", "C:x", "-rf", "x" * 65])
def test_a_name_that_leads_out_of_its_folder_is_no_name(cli, tmp_path, name):
    for kind, command in (("profile", ["profile", "check"]), ("study", ["report"]), ("workload", ["simulate", "-W"])):
        text = {"profile": (Path(load_hardware("tpu-v5e").file)).read_text(encoding="utf-8"), "study": "name: x\n", "workload": "name: x\n"}[kind]
        lines = [f'name: "{name}"'.replace("\0", "\\0") if line.startswith("name:") else line for line in text.splitlines()]
        (tmp_path / "in.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        result = cli(*command, "in.yaml")
        assert result.exit_code == 2
        assert "name" in result.output or "character" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["in.yaml"]


def test_a_report_writes_over_no_link_and_removes_nothing_outside_its_folder(cli, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "figures").symlink_to(elsewhere)
    result = cli("report", "-o", "out", "--force")
    assert result.exit_code == 2
    assert "is a link" in result.stderr
    assert list(elsewhere.iterdir()) == []


SWEEP = """schema_version: 1
name: tiny
title: Tiny
question: Which?
hardware: [h100-sxm]
models: [llama-2-7b]
layouts: [mha, mqa]
batch: [1]
kv_len: [1024]
focus: {batch: 1, kv_len: 1024}
figures: [{kind: roofline}]
"""


@pytest.mark.parametrize("hostile", ["lock that is a pipe", "lock that is a link", "part that is a link", "joined file that is a link", "folder that is a link",
                                     "part of a strange name", "manifest that is a list"])
def test_a_sweep_writes_over_no_link_and_waits_for_no_pipe(cli, tmp_path, hostile):
    precious = tmp_path / "precious"
    precious.write_text("precious", encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(SWEEP, encoding="utf-8")
    parts = tmp_path / "x.csv.parts"
    if hostile == "folder that is a link":
        (tmp_path / "real").mkdir()
        parts.symlink_to(tmp_path / "real")
    else:
        parts.mkdir()
    if hostile == "lock that is a pipe":
        os.mkfifo(parts / "lock")
    elif hostile == "lock that is a link":
        (parts / "lock").symlink_to(precious)
    elif hostile == "part that is a link":
        (parts / "part-000000-0123456789abcdef.csv").symlink_to(precious)
    elif hostile == "joined file that is a link":
        (parts / "joined.csv").symlink_to(precious)
    elif hostile == "part of a strange name":
        (parts / "part-x-y-z.csv").write_text("x", encoding="utf-8")
    elif hostile == "manifest that is a list":
        (parts / "manifest.json").write_text("[" * 50_000, encoding="utf-8")
    with at_once():
        result = cli("sweep", "tiny.yaml", "-o", "x.csv", "--resume")
    assert precious.read_text(encoding="utf-8") == "precious"
    if hostile == "part of a strange name":  # it is none of ours, and no reason to fail
        assert result.exit_code == 0, result.output
    else:
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "x.csv").exists()

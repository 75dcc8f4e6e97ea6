"""Wrong command lines: one or two lines on stderr, nothing on stdout, exit 2, and no file left behind."""

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.commands.main import main
from tests.bad_files import JARGON, bad_files, expected_faults

LISTS = "expected a list or range such as '1,8,32', '1k..128k*2' or '0..10+1'"
WRONG = [
    (["-H", "h100"], "unknown hardware profile 'h100'; did you mean 'h100-pcie' or 'h100-sxm'"),
    (["-H", "h100-sxm.yaml"], "no such hardware profile file 'h100-sxm.yaml'; did you mean 'h100-sxm'"),
    (["-H", ""], "--hardware: a name is missing"), (["-H", ","], "--hardware: a name is missing"), (["-H", "/"], "'/' is not a file that holds a hardware profile"),
    (["-H", "x" * 5000], "hardware profile: a name or a path is missing"),
    (["-H", "a\nb"], r"unknown hardware profile 'a\nb'"),
    (["-M", "llama-2-70B"], "unknown model 'llama-2-70B'; did you mean 'llama-2-70b'"),
    (["-M", "../../etc"], "no such model file '../../etc'"),
    (["-A", "gqa-3"], "gqa-3: 3 KV heads do not divide the 64 query heads of llama-2-70b; K may be 1, 2, 4, 8, 16, 32, 64"),
    (["-A", "gqa"], "unknown attention layout 'gqa': expected as-trained, mha, gqa-K, mqa, mla, gta-K, gla-K or gqla-K; did you mean"),
    (["-A", "mla"], "llama-2-70b was not trained with multi-head latent attention"),
    (["--batch", "0"], f"--batch 0 is below 1; {LISTS}"),
    (["--batch", "-1"], f"--batch -1 is below 1; {LISTS}"),
    (["--batch", "1.5"], "--batch 1.5 is not a whole number"),
    (["--batch", ""], "--batch: a value is missing"),
    (["--batch", "many"], f"--batch: 'many' is not a number; {LISTS}"),
    (["--batch", "1..1000000000000000000+1"], "--batch: "),
    (["--batch", "1..1000000+1"], "3,000,000 points are more than the "),
    (["--batch", "1..9000000000000000*2"], "batch: "),
    (["--kv-len", "999999999999999999"], "--kv-len 1e+18 is above 9.0072e+15"),
    (["--kv-len", "nan"], "--kv-len: 'nan' is not a number"),
    (["--kv-len", "4q"], "--kv-len: '4q' is not a number"),
    (["--kv-len", "1M", "--batch", "1M"], "llama-2-70b with mha and bf16 cache, batch 1048576 x 1048576 tokens, does not fit on "),
    (["--kv-dtype", "bf15"], "unknown KV dtype 'bf15'"), (["--weight-dtype", "bf15"], "unknown weight dtype 'bf15'"),
    (["--chips", "0"], "--chips '0': expected a whole number of at least 1, fit or fit-each"),
    (["--chips", "1e9"], "--chips '1e9': expected"), (["--chips", "99999999"], "--chips 99999999: h100-sxm systems have 1 to "),
    (["--chips", "8", "--tp", "3"], "--tp 3 does not divide the 64 query heads; tp may be 1, 2, 4, 8, 16, 32, 64"),
    (["--tp", "0"], "Invalid value for '--tp': 0 is not in the range"),
    (["--set", "memory.hbm.bandwith=8TB/s"], "--set: memory.hbm.bandwith: unknown key; did you mean 'bandwidth'?"),
    (["--set", "memory.hbm.bandwidth=8"], "--set: memory.hbm.bandwidth: 8 has no unit: expected bytes/s, such as '3.35 TB/s'"),
    (["--set", "memory.hbm.bandwidth=8Tb/s"], "--set: memory.hbm.bandwidth: unknown unit 'Tb/s'"),
    (["--set", "memory.hbm.bandwidth=-1 TB/s"], "--set: memory.hbm.bandwidth: -1 TB/s is out of range: expected 1 MB/s to 1 EB/s"),
    (["--set", "memory.hbm.bandwidth"], "--set: 'memory.hbm.bandwidth' is not key=value"),
    (["--set", "memory.hbm.capacity=1B"], "llama-2-70b with mha and bf16 cache, batch 1 x 4096 tokens, does not fit on "),
    (["--profiles", "gone"], "'gone' is not a folder"), (["--format", "xml"], "Invalid value for '--format': 'xml' is not one of"),
    (["-o", "gone/x.csv"], "gone/x.csv: cannot write"), (["-o", "."], ".: cannot write"), (["-o", "x.xml"], "x.xml: no format for"),
    (["--engine", "rooflin"], "unknown engine 'rooflin': expected one of roofline, replay, spatial; did you mean 'roofline'?"),
    (["--bath", "3"], "No such option"), (["extra"], "Got unexpected extra argument (extra)"),
]


def assert_is_a_wrong_command_line(result, message=""):
    assert result.exit_code == 2, result.output[:500]
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert 1 <= len(lines) <= 2, lines
    assert lines[0].startswith(f"error: {message}"), lines[0]
    assert len(lines[0]) < 500


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments)[:40] for arguments, _ in WRONG])
def test_a_wrong_command_line_is_told_in_one_or_two_lines_and_leaves_no_file(cli, tmp_path, arguments, message):
    result = cli("simulate", *arguments)
    assert_is_a_wrong_command_line(result, message)
    assert list(tmp_path.iterdir()) == []
    if not message.startswith(("Invalid", "No such", "Got")):  # those are click's words
        assert not JARGON.search(result.stderr)


@pytest.mark.parametrize("path", bad_files("bad_profiles"), ids=lambda path: path.stem)
def test_a_wrong_profile_is_told_at_its_line_with_exit_2(cli, path):
    result = cli("simulate", "-H", path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == ["error"] * len(expected_faults(path))
    assert result.stderr.startswith(f"error: {path}:")


@pytest.mark.parametrize("path", bad_files("bad_models"), ids=lambda path: path.stem)
def test_a_wrong_model_is_told_at_its_line_with_exit_2(cli, path):
    result = cli("simulate", "-M", path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {path}:")


def test_a_file_that_is_there_is_kept_when_the_input_is_wrong(cli, tmp_path):
    (tmp_path / "x.csv").write_text("precious", encoding="utf-8")
    assert_is_a_wrong_command_line(cli("simulate", "-o", "x.csv"), "x.csv")
    assert_is_a_wrong_command_line(cli("simulate", "--force", "-o", "x.csv", "--batch", "0"), "--batch")
    assert (tmp_path / "x.csv").read_text(encoding="utf-8") == "precious"


def test_a_broken_profile_in_a_process_of_its_own_is_exit_2_without_a_traceback(run_cli):
    run = run_cli("simulate", "-H", bad_files("bad_profiles")[0])
    assert (run.exit_code, run.stdout) == (2, "")
    assert "Traceback" not in run.stderr


HOSTILE = st.text(max_size=30) | st.lists(st.sampled_from([
    "1", "9", "k", "M", ",", "..", "*2", "+1", "-", ".", "e9", "nan", "inf", "gqa-", "mha", "h100-sxm", "/", "\\", "\n", "\0", "\x1b[31m",
    "=", "memory.hbm.", "TB/s", "'", '"', "{", "[", "=cmd|' /C calc'!A0", "<script>", "%s", "{0}", "\ud800"]), max_size=6).map("".join)


@settings(max_examples=2 * settings.default.max_examples)
@given(option=st.sampled_from(["-H", "-M", "-A", "--batch", "--kv-len", "--q-len", "--kv-dtype", "--weight-dtype", "--chips", "--tp",
                               "--pp", "--engine", "--set", "--profiles", "--format"]), value=HOSTILE)
def test_any_value_of_any_option_is_taken_or_is_told_in_two_lines(option, value):
    result = CliRunner().invoke(main, ["simulate", "-H", "h100-sxm", "-A", "mqa", f"{option}={value}" if option.startswith("--") else
                                       option + value, "--kv-len", "1"], catch_exceptions=False)
    if result.exit_code == 0:
        return
    assert_is_a_wrong_command_line(result)

"""Wrong input to every command: one or two lines on stderr, exit 2, and no file left behind."""

import pytest

WRONG = [
    (["attention", "-H", "h100"], "unknown hardware profile 'h100'"),
    (["attention", "--n-q-heads", "0"], "Invalid value for '--n-q-heads'"),
    (["attention", "--n-q-heads", "99999999"], "99999999 query heads: expected 1 to 65,536"),
    (["attention", "--head-dim", "0"], "Invalid value for '--head-dim'"),
    (["attention", "--n-kv-heads", "0"], "--n-kv-heads 0 is below 1"),
    (["attention", "--n-kv-heads", "128"], "128 KV heads do not divide the 64 query heads"),
    (["attention", "--kv-dtype", "bf15"], "unknown KV dtype 'bf15'"),
    (["attention", "--engine", "roofing"], "unknown engine 'roofing': expected one of roofline, replay, spatial; did you mean 'roofline'?"),
    (["attention", "--batch", "1M", "--kv-len", "1M"], "3 of 3 points do not fit on one chip"),
    (["attention", "--batch", "1..1000000+1"], "3,000,000 points are more than"),
    (["attention", "-o", "gone/x.csv"], "gone/x.csv: cannot write"),
    (["roofline", "-H", "h100"], "unknown hardware profile 'h100'"),
    (["roofline", "-M", "lama"], "unknown model 'lama'"),
    (["roofline", "-A", "gqa-3"], "gqa-3: 3 KV heads do not divide"),
    (["roofline", "--batch", "1,2"], "--batch: expected one value, not a list"),
    (["roofline", "--kv-len", "0"], "--kv-len 0 is below 1"),
    (["roofline", "-o", "gone/x.svg"], "gone/x.svg: cannot write"),
    (["roofline", "-o", "x.svg", "--format", "csv"], "--format csv and -o x.svg"),
    (["roofline", "-o", "x.gif"], "x.gif: no format for"),
    (["profile", "show", "h100"], "unknown hardware profile 'h100'; did you mean 'h100-pcie' or 'h100-sxm'"),
    (["profile", "show", "h100-sxm", "--set", "x"], "--set: 'x' is not key=value"),
    (["profile", "check", "gone.yaml"], "no such hardware profile file 'gone.yaml'"),
    (["profile", "diff", "h100-sxm", "h100"], "unknown hardware profile 'h100'"),
    (["profile", "diff", "h100-sxm", "h200-sxm", "--kv-len", "1,2"], "--kv-len: expected one value"),
    (["profile", "diff", "h100-sxm"], "Missing argument"),
    (["profile", "new", "x/y", "--like", "h100-sxm"], "'x/y' is not a name for a profile"),
    (["profile", "new", "x", "--like", "h100"], "unknown hardware profile 'h100'"),
    (["profile", "new", "x", "--like", "h100-sxm", "-o", "gone/x.yaml"], "gone/x.yaml: cannot write"),
    (["profile", "list", "--profiles", "gone"], "'gone' is not a folder"),
    (["profile", "schema", "-o", "gone/x.json"], "gone/x.json: cannot write"),
    (["model", "show", "lama-2-70b"], "unknown model 'lama-2-70b'; did you mean 'llama-2-70b'"),
    (["model", "list", "--models", "gone"], "'gone' is not a folder"),
    (["model", "import", "gone.json"], "gone.json: "),
    (["model", "convert", "gone", "--n-kv-heads", "8", "-o", "out"], "gone"),
    (["model", "convert", "gone", "--n-kv-heads", "0", "-o", "out"], "Invalid value for '--n-kv-heads'"),
    (["evidence", "dram", "--data", "gone.csv"], "gone.csv: cannot read the DRAM table"),
    (["capacity", "--chips", "fit-each"], "--chips fit-each: layouts that are compared share their chips here"),
    (["capacity", "-H", "groq-lpu", "--chips", "1"], "llama-2-70b under mha: its weights alone do not fit on 1 x groq-lpu"),
    (["capacity", "-A", "gqa-5"], "gqa-5: 5 KV heads do not divide"),
    (["stack", "-M", "lama"], "unknown model 'lama'"),
    (["stack", "--batch", "0"], "--batch 0 is below 1"),
    (["stack", "--batch", "1M", "--kv-len", "1M", "mha"], "llama-2-70b with mha does not fit on h100-sxm"),
    (["simulate", "-H", "h100-sxm,groq-lpu", "--set", "memory.hbm.bandwidth=8TB/s"],
     "--set: memory.hbm.bandwidth: no such key 'hbm' (in groq-lpu)"),
    (["report", "gone"], "unknown study 'gone'"),
    (["profile", "lst"], "no such command 'lst'; did you mean 'list'?"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments)[:50] for arguments, _ in WRONG])
def test_wrong_input_is_told_in_one_or_two_lines_and_leaves_no_file(cli, tmp_path, arguments, message):
    result = cli(*arguments)
    assert result.exit_code == 2, result.output[:500]
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert 1 <= len(lines) <= 2, lines
    assert lines[0].startswith(f"error: {message}"), lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [
    ["simulate", "-o", "file/x.csv"], ["attention", "-o", "file/x.json"], ["roofline", "-o", "file/x.svg"],
    ["profile", "schema", "-o", "file/x"], ["profile", "new", "x", "--like", "h100-sxm", "-o", "file/x.yaml"],
    ["report", "-o", "file/x"],
], ids=lambda arguments: arguments[0])
def test_an_output_below_a_file_cannot_be_written(cli, tmp_path, arguments):
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    result = cli(*arguments)
    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert (tmp_path / "file").read_text(encoding="utf-8") == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

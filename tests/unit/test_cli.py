"""The command line: where overrides stand, what options take, and what it says as it ends."""

import stat
import subprocess
import sys
import tempfile

import pytest

from megatron_stare.cli import COMMANDS, main
from tests.disks import full_disk
from tests.models import make_hf_folder, tiny_config

SMALLEST = """
model: {path: m}
data: {path: d.jsonl, max_prompt_tokens: 9}
rollout: {max_response_tokens: 9}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(SMALLEST)
    return "run.yaml"


@pytest.mark.parametrize(
    "line",
    [
        ("optim.lr=0.5", "--kind", "train", "run.seed=7"),
        ("--kind", "train", "optim.lr=0.5", "run.seed=7"),
        ("optim.lr=0.5", "run.seed=7", "--kind=train"),
    ],
)
def test_overrides_stand_anywhere_behind_the_command(config, capsys, line):
    for place in range(len(line) + 1):
        if line[place - 1] != "--kind":
            assert main(["config", *line[:place], config, *line[place:]]) == 0
            printed = capsys.readouterr().out
            assert "lr: 0.5" in printed
            assert "seed: 7" in printed


def test_a_value_of_an_option_is_no_override(config, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["config", config, "--kind", "optim.lr=0.5"])
    assert "argument --kind: invalid choice: 'optim.lr=0.5'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "config run.yaml --proceses 2",
            "unrecognized arguments: --proceses 2; did you mean --pro",
        ),
        ("config run.yaml --steps 5", "overrides are section.key=value, without dashes"),
        ("config run.yaml a=1 --steps=5", "unrecognized arguments: --steps=5"),
        ("verify a b c", "unrecognized arguments: c"),
        (
            "config run.yaml --processes 0",
            "--processes: input should be greater than or equal to 1",
        ),
        ("config run.yaml --processes -3", "greater than or equal to 1, found '-3'"),
        ("plan run.yaml --gpus 1000000", "--gpus: input should be less than or equal to 100000"),
        ("plan run.yaml --rollout-gpus -1", "--rollout-gpus: input should be greater than"),
        ("verify a b --tolerance nan", "--tolerance: input should be a finite number, found 'nan'"),
        ("verify a b --logprob-atol inf", "--logprob-atol: input should be a finite number"),
        ("serve m --port 70000", "--port: input should be less than or equal to 65535"),
        ("serve m --deadline-s inf", "--deadline-s: input should be a finite number"),
        ("serve m --registry $NOT_SET_AT_ALL/x", "$NOT_SET_AT_ALL is not set in the environment"),
        ("convert hf-to-megatron a b --threads 0", "--threads: input should be greater than"),
    ],
)
def test_a_line_that_is_not_understood(config, capsys, line, message):
    with pytest.raises(SystemExit) as end:
        main(line.split())
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_in_place_of_a_folder_is_named(config, tmp_path, capsys):
    tiny_config("qwen3").save_pretrained(tmp_path / "m")
    (tmp_path / "d.jsonl").touch()
    (tmp_path / "file").touch()
    assert main(["slurm", config, "--out", "file/job", "slurm.processes_per_node=1"]) == 2
    error = capsys.readouterr().err
    assert "error: --out=file: cannot be written" in error
    assert len(error.splitlines()) == 1


def test_a_host_that_is_none_of_this_machine(config, tmp_path, capsys):
    tiny_config("qwen3").save_pretrained(tmp_path / "m")
    for host in ("not a host", "203.0.113.7", "x" * 300):
        assert main(["serve", "m", "--host", host]) == 2
        assert "expected an address of this machine" in capsys.readouterr().err


def test_a_script_may_hold_secrets(config, tmp_path):
    tiny_config("qwen3").save_pretrained(tmp_path / "m")
    (tmp_path / "d.jsonl").touch()
    (tmp_path / "job").touch(mode=0o644)
    secret = "slurm.environment={WANDB_API_KEY: abc}"
    assert main(["slurm", config, "--out", "job", "slurm.processes_per_node=1", secret]) == 0
    assert stat.S_IMODE((tmp_path / "job").stat().st_mode) == 0o600
    assert "abc" in (tmp_path / "job").read_text()


def test_a_pipe_that_nobody_reads_ends_a_command_with_one_line(config):
    command = [sys.executable, "-m", "megatron_stare.cli", "config", config]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, error = process.communicate(timeout=120)
    assert error == "megatron-stare: standard output: Broken pipe\n"
    assert process.returncode == 141


def test_a_full_disk_behind_standard_output(config):
    command = [sys.executable, "-m", "megatron_stare.cli", "config", config]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == "megatron-stare: error: No space left on device\n"
    assert done.returncode == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_what_it_takes(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    printed = capsys.readouterr().out
    assert f"usage: megatron-stare {name}" in printed
    assert " ".join(COMMANDS[name].split()) in " ".join(printed.split())


@pytest.mark.parametrize("line", [["--help"], ["--version"], ["nonsense"], ["report", "--help"]])
def test_what_needs_no_torch_does_not_wait_for_it(line):
    code = (
        "import sys\n"
        "from megatron_stare.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True)
    assert done.stderr.endswith("False\n")


def test_a_disk_that_takes_no_more_is_one_line(tmp_path, capsys, monkeypatch):
    """Here a limit on files, for a folder of the moment."""
    model, rows, config = make_hf_folder(tmp_path / "model"), tmp_path / "rows.jsonl", "pivots.yaml"
    rows.write_text('{"prompt": "1+1", "answer": "2", "response": "so\\n\\n2"}\n')
    (tmp_path / config).write_text(
        f"run: {{dir: {tmp_path / 'run'}}}\nmodel: {{path: {model}}}\ndata: {{path: {rows}}}\n"
        "pivots: {response_field: response, max_mean: 0.75}\n"
    )
    capsys.readouterr()
    monkeypatch.setattr(tempfile, "tempdir", None)
    for num_bytes, said in ((1, "states.jsonl: File too large"), (0, "No usable temporary dir")):
        with full_disk(num_bytes):
            code = main(["pivots", str(tmp_path / config)])
        [error] = capsys.readouterr().err.splitlines()
        assert code == 2
        assert error.startswith("megatron-stare: error: ")
        assert said in error
        tempfile.tempdir = None

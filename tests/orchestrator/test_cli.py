"""The commands as a user types them: what they print, and their exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_studies import bad_studies
from click.testing import CliRunner

from sensweep.orchestrator.cli import cli, main
from sensweep.orchestrator.study import shipped_studies

SCRIPT = str(Path(sys.executable).with_name("sensweep"))
BOWL = """
    study: bowl
    question: Where is the bottom?
    seeds: 3
    axes: {x: [0.0, 1.0]}
    stages:
      toy: {task: toy, params: {steps: 2}}
      broken: {task: "own:broken", axes: [], needs: toy}
    claims:
      - {id: "1", type: difference, statement: x = 1 is better., value: value,
         of: {x: 1.0}, than: {x: 0.0}, direction: higher}
"""
OWN = """
    from sensweep.tasks.api import measure

    def broken(params, context):
        yield measure("fine", 1)
        if context.seed == 2:
            raise ValueError("seed two is unlucky")
"""


@pytest.fixture(scope="module")
def bowl(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A folder in which the study above was run once, by the command."""
    import textwrap

    folder = tmp_path_factory.mktemp("bowl")
    (folder / "bowl.yaml").write_text(textwrap.dedent(BOWL))
    (folder / "own.py").write_text(textwrap.dedent(OWN))
    result = invoke("run", str(folder / "bowl.yaml"), "--home", str(folder / "runs"), "--json")
    assert result.exit_code == 1, result.output  # some trials failed
    summary = json.loads(result.stdout)
    assert summary["stages"] == {"toy": {"done": 6}, "broken": {"done": 4, "failed": 2}}
    assert summary["mlflow_error"] is None
    assert summary["claims"][0]["verdict"] == "supported"
    return folder


def invoke(*arguments: str):
    return CliRunner().invoke(cli, arguments)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command in this process; it must end with exit code 2 and one line."""
    sys.argv = ["sensweep", *arguments]
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    return error


def test_everything_can_be_read_again_from_the_home(bowl: Path) -> None:
    home = ["--home", str(bowl / "runs")]
    assert "supported" in invoke("claims", "bowl", *home).output
    claims = json.loads(invoke("claims", "bowl", *home, "--json").output)
    assert {"id", "statement", "verdict", "estimate", "interval", "n", "replicate"} <= set(
        claims[0]
    )
    status = json.loads(invoke("status", "bowl", *home, "--json").output)
    assert status["state"] == "ended"
    assert status["stages"]["broken"] == {"done": 4, "failed": 2}
    page = Path(json.loads(invoke("report", "bowl", *home, "--json").output)["report"])
    assert "Where is the bottom?" in page.read_text()
    lines = json.loads(
        invoke(
            "query", "select count(*) as n from rows where stage = 'toy'", *home, "--json"
        ).output
    )
    assert lines == [{"n": 12}]
    assert (bowl / "runs/sweeps/bowl.cpu/cells.parquet").is_file()
    assert (bowl / "runs/mlflow.db").is_file()


def test_the_log_of_a_failed_trial_is_found(bowl: Path) -> None:
    home = ["--home", str(bowl / "runs")]
    sql = "select trial_id from trials where status = 'failed' order by 1"
    trial = json.loads(invoke("query", sql, *home, "--json").output)[0]["trial_id"]
    assert "ValueError: seed two is unlucky" in invoke("logs", trial[:12], *home).output
    assert "no log of a trial" in str(invoke("logs", "zzz", *home).exception)


def test_running_again_runs_nothing_and_says_so(bowl: Path) -> None:
    result = invoke("run", str(bowl / "bowl.yaml"), "--home", str(bowl / "runs"))
    assert "nothing to run" in result.output
    assert "2 trials failed" in result.output
    assert "seed two is unlucky" in result.output
    assert result.exit_code == 1


def test_why_names_what_made_a_trial_new(bowl: Path) -> None:
    home = ["--home", str(bowl / "runs")]
    changed = bowl / "changed.yaml"
    text = (bowl / "bowl.yaml").read_text()
    changed.write_text(text.replace("steps: 2", "steps: 2, y: 1.0"))
    output = invoke("plan", str(changed), *home, "--why").output
    assert "12 to run" in output
    assert "params.y" in output
    changed.write_text(text.replace("seeds: 3", "seeds: 4"))
    plan = json.loads(invoke("plan", str(changed), *home, "--why", "--json").output)
    assert plan["to_run"] == 4
    assert "seed 3 is new" in plan["why"][0]["reason"]
    (bowl / "own.py").write_text((bowl / "own.py").read_text() + "\nEXTRA = 1\n")
    output = invoke("plan", str(bowl / "bowl.yaml"), *home, "--why").output
    assert "own.py" in output
    assert "6 to run" in output  # the analysis alone


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["runn"], "Did you mean 'run'?"),
        (["run"], "Missing argument 'STUDY'"),
        (["run", "quickstrat"], "did you mean 'quickstart'?"),
        (["run", "quickstart", "--profile", "papr"], "papr"),
        (["plan", "quickstart", "--profil", "cpu"], "No such option"),
        (["run", "quickstart", "--cpus", "0"], "0 is not in the range"),
        (["status", "bowl", "--home", "nowhere"], "no home at 'nowhere'"),
        (["query", "drop table rows"], "no home at 'runs'"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hint in fails(capsys, *arguments)


def test_unknown_sweeps_and_bad_sql_are_one_line(
    bowl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(bowl / "runs")]
    assert "did you mean 'bowl.cpu'" in fails(capsys, "claims", "bwl", *home)
    assert "sigmma" in fails(capsys, "query", "select sigmma from rows", *home)
    assert fails(capsys, "query", "copy (select 1) to 'x.csv'", *home)
    assert fails(capsys, "query", "select * from read_text('/etc/passwd')", *home)


def test_fifty_bad_studies_are_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = bad_studies(tmp_path)
    assert len(studies) >= 50
    for path, hint in studies:
        error = fails(capsys, "run", str(path), "--home", str(tmp_path / "runs"))
        assert hint in error, f"{path.name}: {error}"
    assert not (tmp_path / "runs").exists()


def test_every_command_has_help_with_an_example() -> None:
    for name in cli.commands:
        output = invoke(name, "--help").output
        assert "Example: sensweep" in output, name


def test_help_and_plan_load_nothing_heavy() -> None:
    heavy = "torch timm ray mlflow optuna sklearn matplotlib"
    for arguments in (["--help"], ["run", "--help"], ["plan", "quickstart", "--home", "none"]):
        code = (
            f"import sys; sys.argv = ['sensweep', *{arguments}]\n"
            "from sensweep.orchestrator.cli import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            f"sys.exit(repr([m for m in '{heavy}'.split() if m in sys.modules] or 0))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stderr.strip() in ("0", ""), done.stderr


def test_ctrl_c_stops_politely_and_the_same_command_resumes(
    write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    import signal

    study = write("slow.yaml", """
        study: slow
        seeds: 40
        stages:
          toy: {task: toy, params: {steps: 10, sleep: 0.05}}
    """)  # fmt: skip
    home = tmp_path / "runs"
    command = [SCRIPT, "run", str(study), "--home", str(home), "--cpus", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    live = home / "sweeps/slow.cpu/live.json"
    while time.monotonic() < deadline:
        if live.exists() and json.loads(live.read_text())["stages"]["toy"].get("done", 0) >= 4:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "stopped by the user; the same command resumes" in out
    status = json.loads(invoke("status", "slow", "--home", str(home), "--json").output)
    assert 4 <= status["stages"]["toy"]["done"] < 40
    assert status["state"] == "ended"
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert json.loads(invoke("status", "slow", "--home", str(home), "--json").output)["stages"] == {
        "toy": {"done": 40}
    }


def test_the_shipped_studies_are_listed() -> None:
    listed = json.loads(invoke("studies", "--json").output)
    assert {line["study"] for line in listed} == set(shipped_studies())
    assert {"quickstart", "vision_small"} <= {line["study"] for line in listed}

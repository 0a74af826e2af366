"""The whole life of a job, against schedulers that tests/clusters/fakes/ plays.

Batch scripts and `sensweep stop` and `status` are the real ones; the sweep is a driver that opens
the home and waits. What a scheduler does beyond its answers is not tested here: docs/clusters.md
says what was run for real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from waiting import until

from sensweep.orchestrator.cli import cli, main
from sensweep.results.store import Home

CLUSTERS = {
    "slurm": "{kind: slurm, cpus: 2, time: 60}",
    "local": "{kind: local, cpus: 2}",
    "kubernetes": "{kind: kubernetes, image: lab/sensweep, home: /home/runs, pvc: home, "
    "namespace: lab, workers: [{cpus: 4, memory: 8Gi}]}",
}
STUDY = "study: bowl\nstages:\n  toy: {task: toy}\n"


class Sweep:
    """Commands about one sweep, in a folder of its own."""

    def __init__(self, folder: Path, cluster: str) -> None:
        (folder / "bowl.yaml").write_text(STUDY)
        (folder / "cluster.yaml").write_text(CLUSTERS.get(cluster, cluster))
        self.home = str(folder / "my runs")

    def __call__(self, *words: str) -> str:
        result = CliRunner().invoke(cli, [*words, "--home", self.home], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    def submit(self, *options: str) -> dict[str, Any]:
        told = self("submit", "bowl.yaml", "--cluster", "cluster.yaml", "--json", *options)
        return dict(json.loads(told))

    def job(self) -> str:
        return str(json.loads(self("job", "status", "bowl", "--json"))["state"])

    def state(self) -> str:
        return str(json.loads(self("status", "bowl", "--json"))["state"])

    def begun(self) -> bool:
        home = Home(self.home)
        return home.sweeps() == ["bowl.cpu"] and not home.manifest("bowl.cpu").closed


@pytest.fixture
def sweep(fakes: Path, tmp_path: Path) -> Callable[[str], Sweep]:
    return lambda cluster: Sweep(tmp_path, cluster)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    sys.argv = ["sensweep", *arguments]
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_dry_run_prints_what_a_submit_sends(
    sweep: Callable[[str], Sweep], fakes: Path, tmp_path: Path
) -> None:
    bowl = sweep("slurm")
    options = ("submit", "bowl.yaml", "--cluster", "cluster.yaml")
    text = bowl(*options, "--dry-run")
    shown = json.loads(bowl(*options, "--dry-run", "--json"))
    assert shown["text"] == text
    assert not Path(bowl.home).exists()
    assert not list((fakes / "slurm").iterdir())
    sent = bowl.submit()["job"]
    assert (Path(bowl.home) / "sweeps/bowl.cpu/jobs" / sent["text"]).read_text() == text
    assert sent["name"] == shown["name"]
    assert sent["cluster_file"] == str(tmp_path / "cluster.yaml")


def test_slurm_from_submit_to_stop(
    sweep: Callable[[str], Sweep], fakes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bowl = sweep("slurm")
    (fakes / "starts").write_text("99")
    (fakes / "slurm" / "held").touch()
    sent = bowl.submit()
    assert (sent["joined"], sent["job"]["handle"]["id"]) == (None, "4711")
    assert bowl.job() == "waiting"
    assert "has not begun" in fails(capsys, "status", "bowl", "--home", bowl.home)
    assert "slurm job 4711" in bowl.submit()["joined"]  # sends nothing
    (fakes / "slurm" / "held").unlink()
    until(bowl.begun)
    assert (bowl.job(), bowl.state()) == ("running", "running")
    assert "is running" in bowl.submit()["joined"]
    assert len(list((fakes / "slurm").glob("[0-9]*"))) == 1
    assert "asked to stop" in bowl("stop", "bowl")
    until(lambda: bowl.job() == "failed")  # 130: not done, and Slurm did not want the nodes back
    assert bowl.state() == "ended"
    assert "run " in bowl("job", "logs", "bowl")
    assert bowl.submit()["job"]["number"] == 2


def test_a_preempted_slurm_job_stops_politely_and_goes_on_when_requeued(
    sweep: Callable[[str], Sweep], fakes: Path
) -> None:
    bowl = sweep("slurm")
    (fakes / "starts").write_text("2")
    bowl.submit()
    until(bowl.begun)
    subprocess.run(["preempt", "4711"], check=True)
    until(lambda: bowl.job() == "ended")
    log = bowl("job", "logs", "bowl")
    assert log.count("run ") >= 2
    assert "Slurm wants the nodes back" in log
    assert "requeued" in log
    assert Home(bowl.home).manifest("bowl.cpu").epoch == 2
    assert (fakes / "slurm/4711/runs").read_text() == "2"


def test_a_cancelled_slurm_job_is_not_requeued(sweep: Callable[[str], Sweep], fakes: Path) -> None:
    bowl = sweep("slurm")
    (fakes / "starts").write_text("99")
    bowl.submit()
    until(bowl.begun)
    bowl("job", "cancel", "bowl")
    until(lambda: bowl.state() == "ended")
    assert bowl.job() == "cancelled"
    assert not (fakes / "slurm/4711/runs").exists()


def test_a_slurm_job_whose_ray_does_not_start_has_failed(
    sweep: Callable[[str], Sweep], fakes: Path
) -> None:
    (fakes / "slurm" / "no-ray").touch()
    bowl = sweep("slurm")
    bowl.submit()
    until(lambda: bowl.job() == "failed")
    assert "no port is free" in bowl("job", "logs", "bowl")
    assert "did not begin" in bowl("job", "logs", "bowl")


def test_what_slurm_has_forgotten(sweep: Callable[[str], Sweep], fakes: Path) -> None:
    bowl = sweep("slurm")
    bowl.submit()
    until(lambda: bowl.job() == "ended")
    (fakes / "slurm/4711/purged").write_text("yes")
    assert bowl.job() == "ended"  # sacct
    (fakes / "slurm/no-accounts").touch()
    assert bowl.job() == "gone"
    assert bowl.submit()["joined"] is None


def test_a_job_is_found_by_its_name_if_its_submission_broke_off(
    sweep: Callable[[str], Sweep], fakes: Path
) -> None:
    """As if the laptop had died between sbatch's answer and the record of it."""
    (fakes / "slurm" / "held").touch()
    bowl = sweep("slurm")
    bowl.submit()
    record = Path(bowl.home) / "sweeps/bowl.cpu/jobs/0001.json"
    sent = json.loads(record.read_text())
    record.write_text(json.dumps(sent | {"status": "sending", "handle": {}}))
    assert bowl.job() == "waiting"
    assert sent["name"] in bowl.submit()["joined"]
    bowl("job", "cancel", "bowl")
    assert bowl.job() == "cancelled"


def test_of_two_who_submit_at_once_one_sends(sweep: Callable[[str], Sweep], fakes: Path) -> None:
    from sensweep.orchestrator.cluster_file import read_cluster
    from sensweep.orchestrator.errors import InputError
    from sensweep.orchestrator.jobs import Jobs
    from sensweep.orchestrator.study import load_study

    bowl = sweep("slurm")
    (fakes / "slurm" / "held").touch()
    study, cluster = load_study("bowl.yaml"), read_cluster("cluster.yaml")
    jobs = [Jobs(bowl.home, "bowl.cpu") for _ in range(4)]
    described = [j.next(study, "bowl.yaml", ()) for j in jobs]  # all see an empty home

    def send(i: int) -> str:
        try:
            return jobs[i].send(described[i], cluster, "cluster.yaml").id
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        answers = sorted(pool.map(send, range(4)))
    assert answers[0] == "4711"
    assert all("in this very moment" in answer for answer in answers[1:])
    assert len(list((fakes / "slurm").glob("[0-9]*"))) == 1


def test_what_a_scheduler_refuses_is_one_line(
    sweep: Callable[[str], Sweep],
    fakes: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bowl = sweep("{kind: slurm, cpus: 1, partition: closed}")
    command = ("submit", "bowl.yaml", "--cluster", "cluster.yaml", "--home", bowl.home)
    assert "Invalid partition name" in fails(capsys, *command)
    assert bowl.job() == "failed"
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(os.pathsep)[0] + "/none")
    assert "sbatch is not on the PATH of this machine" in fails(capsys, *command)
    assert "no job of a sweep bowl.gpu" in fails(
        capsys, "job", "status", "bowl", "--profile", "gpu", "--home", bowl.home
    )


def test_a_sweep_that_runs_by_hand_is_joined(sweep: Callable[[str], Sweep], fakes: Path) -> None:
    bowl = sweep("slurm")
    with Home(bowl.home).open_sweep("bowl.cpu", study={}, owner="ana"):
        assert "ana runs it on" in bowl.submit()["joined"]
    assert bowl.submit()["joined"] is None


def test_local_outlives_its_shell_and_stops_politely(
    sweep: Callable[[str], Sweep], fakes: Path
) -> None:
    bowl = sweep("local")
    (fakes / "starts").write_text("99")
    process = int(bowl.submit()["job"]["handle"]["id"])
    until(bowl.begun)
    assert os.getsid(process) == process
    assert "is running" in bowl.submit()["joined"]
    bowl("stop", "bowl")
    until(lambda: bowl.job() == "gone")
    assert bowl.state() == "ended"
    assert "--cpus 2" in bowl("job", "logs", "bowl")
    bowl.submit()
    until(bowl.begun)
    bowl("job", "cancel", "bowl")
    until(lambda: bowl.job() == "cancelled")


def test_kubernetes_from_submit_to_cancel(
    sweep: Callable[[str], Sweep], fakes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bowl, objects = sweep("kubernetes"), fakes / "kubernetes"
    name = bowl.submit()["job"]["name"]
    rayjob = objects / f"rayjob.{name}"
    config = json.loads((objects / f"configmap.{name}").read_text())
    assert config["data"]["study.yaml"] == STUDY
    assert "--home /home/runs" in config["data"]["run.sh"]
    manifest = json.loads(rayjob.read_text())
    seen = {
        "waiting": {},
        "running": {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
        "ended": {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"},
        "failed": {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"},
    }
    for state, status in seen.items():
        rayjob.write_text(json.dumps(manifest | {"status": status}))
        assert bowl.job() == state
        if state in ("waiting", "running"):
            assert f"is {state}" in bowl.submit()["joined"]
    assert bowl("job", "logs", "bowl") == f"what job/{name} printed\n"
    (objects / "away").touch()
    error = fails(capsys, "submit", "bowl.yaml", "--cluster", "cluster.yaml", "--home", bowl.home)
    assert "was refused - did you specify the right host?" in error
    (objects / "away").unlink()
    bowl("job", "cancel", "bowl")
    assert not rayjob.exists()
    assert not list(objects.glob("configmap*"))
    assert bowl.job() == "cancelled"
    calls = [json.loads(line) for line in (objects / "calls").read_text().splitlines()]
    assert all(call[0] == "--namespace=lab" for call in calls)


# ---- Ray Jobs


class RayJobs(BaseHTTPRequestHandler):
    """The part of Ray's Jobs API that is used, over the server's dictionary `jobs`."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None: ...

    def _answer(self) -> None:
        server: Any = self.server
        if self.headers.get("Authorization") != "Bearer s3cret":
            return self._send(401, {"detail": "no token"})
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        _, _, what, *rest = [*self.path.strip("/").split("/"), ""]
        if self.path == "/api/version":
            import ray

            facts = {"version": "4", "ray_version": ray.__version__, "ray_commit": "x"}
            return self._send(200, facts | {"session_name": "x"})
        if self.command == "POST" and not what:
            server.jobs[body["submission_id"]] = {
                "type": "SUBMISSION", "status": "PENDING", **body,
            }  # fmt: skip
            name = body["submission_id"]
            return self._send(200, {"job_id": name, "submission_id": name})
        if what not in server.jobs:
            return self._send(404, {"detail": f"Job {what} does not exist"})
        if rest[0] == "stop":
            server.jobs[what]["status"] = "STOPPED"
            return self._send(200, {"stopped": True})
        if rest[0] == "logs":
            return self._send(200, {"logs": "what it printed\n"})
        return self._send(200, server.jobs[what])

    def _send(self, code: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def test_ray_jobs_from_submit_to_cancel(
    sweep: Callable[[str], Sweep],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), RayJobs)
    server.jobs = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    bowl = sweep(f"{{kind: ray, address: '{address}', token_env: LAB_TOKEN, send_folder: false}}")
    command = ("submit", "bowl.yaml", "--cluster", "cluster.yaml", "--home", bowl.home)
    assert "LAB_TOKEN, which token_env names, is empty" in fails(capsys, *command)
    monkeypatch.setenv("LAB_TOKEN", "wrong")
    assert "is the token in token_env's variable" in fails(capsys, *command)
    monkeypatch.setenv("LAB_TOKEN", "s3cret")
    sent = bowl.submit()["job"]
    name = sent["name"]
    assert '--address "$RAY_ADDRESS"' in server.jobs[name]["entrypoint"]
    text = Path(bowl.home) / "sweeps/bowl.cpu/jobs" / sent["text"]
    assert json.loads(text.read_text())["entrypoint"] == server.jobs[name]["entrypoint"]
    assert "s3cret" not in "".join(
        path.read_text() for path in Path(bowl.home).rglob("*") if path.is_file()
    )
    assert bowl.job() == "waiting"
    server.jobs[name]["status"] = "RUNNING"
    assert "is running" in bowl.submit()["joined"]
    assert bowl("job", "logs", "bowl") == "what it printed\n"
    bowl("job", "cancel", "bowl")
    assert bowl.job() == "cancelled"
    del server.jobs[name]  # the cluster began anew
    assert bowl.job() == "cancelled"
    assert bowl.submit()["job"]["number"] == 4  # two were refused
    server.shutdown()
    server.server_close()
    assert "Ray Jobs at" in fails(capsys, "job", "status", "bowl", "--home", bowl.home)

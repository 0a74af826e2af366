"""The Python front end, as one would use it in a notebook: build a study, run it, read it.

Run it:  .venv/bin/python examples/notebook.py
"""

from sensweep.orchestrator import Study, run

study = Study(
    study="bowl",
    question="Where is the bottom of the bowl?",
    seeds=3,
    axes={"x": [0.0, 1.0, 2.0], "y": [-2.0, 0.0]},
    stages={"toy": {"task": "toy", "params": {"noise": 0.1}}},
)

if __name__ == "__main__":
    sweep = run(study, home="runs")
    cells = sweep.cells().to_pandas()
    best = cells.loc[cells["mean"].idxmax()]
    print(f"{sweep.executed} trials executed; best at x = {best.x}, y = {best.y}")
    assert (best.x, best.y) == (1.0, -2.0)
    print(sweep.report())

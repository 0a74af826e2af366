"""Tasks that a researcher might write on a bad day. Copied beside a study file by the tests."""

import os
import random
import signal
import sys
import threading
import time

from sensweep.tasks.api import measure

SEEN = []  # a module's global, which a warm worker must not carry from trial to trial


def good(params, context):
    SEEN.append(params["x"])
    yield measure("seen", len(SEEN))
    yield measure("draw", random.Random(context.stream("draw")).random())
    yield measure("global_draw", random.random())


def raises(params, context):
    yield measure("value", 1)
    if params["x"] == 1:
        raise RuntimeError("the loss went\nthrough the roof")


def needs_a_file(params, context):
    if params["x"] == 1:
        open(params["path"]).close()
    yield measure("value", 1)


def exits(params, context):
    yield measure("value", 1)
    if params["x"] == 1:
        sys.exit("enough")


def not_a_number(params, context):
    yield measure("value", float("nan"))
    yield measure("value", float("inf"))


def nothing(params, context):
    if params["x"] == "never":
        yield measure("value", 1)


def no_generator(params, context):
    return 3


def not_a_measurement(params, context):
    yield {"value": 1}


def leaks(params, context):
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    yield measure("pid", os.getpid())


def changes_globals(params, context):
    os.environ["SURPRISE"] = "1"
    os.chdir("/")
    random.gauss = lambda mu, sigma: 0.0
    yield measure("pid", os.getpid())


def witness(params, context):
    yield measure("pid", os.getpid())
    yield measure("surprise", "SURPRISE" in os.environ)
    yield measure("patched", random.gauss(5, 0.1) == 0.0)


def dies(params, context):
    yield measure("value", 1)
    if params["x"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def dies_once(params, context):
    marker = f"{params['folder']}/died"
    first = context.resume_from.step + 1 if context.resume_from else 1
    for step in range(first, 4):
        yield measure("value", step, step=step)
        context.checkpoint(step, lambda path: path.write_text("state"), value=step)
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)


def slow(params, context):
    for step in range(600):
        yield measure("value", step, step=step)
        time.sleep(0.1)


def deaf(params, context):
    yield measure("value", 1)
    time.sleep(600)


def threads(params, context):
    yield measure("threads", context.threads)
    yield measure("omp", int(os.environ["OMP_NUM_THREADS"]))
    print("printed by the task")
    os.system("echo printed by a child")


def checkpointed(params, context):
    for step in range(1, 7):
        yield measure("accuracy", step / 10, step=step)
        context.checkpoint(
            step, lambda path, step=step: path.write_text(str(step)), accuracy=step / 10
        )


def reads_checkpoint(params, context):
    (checkpoint,) = context.parents.values()
    yield measure("read", int(checkpoint.path.read_text()))

"""The digest of a task's code: what it computes counts, how it is written does not."""

import os
import sys
import textwrap

import pytest

from sensweep.orchestrator.code_digest import code_digest
from sensweep.orchestrator.errors import InputError
from sensweep.orchestrator.task_lookup import find_task
from sensweep.tasks import catalog

TASK = '''
"""What it measures."""
import helper
from pkg.inner import scale
from . import nothing_here


def roughness(params, context):
    """Yield one number."""
    from late import bias

    yield helper.square(params["x"]) * scale + bias
'''
FILES = {
    "my_tasks.py": TASK,
    "helper.py": "import deep\n\ndef square(x):\n    return deep.product(x, x)\n",
    "deep.py": "def product(x, y):\n    return x * y\n",
    "pkg/__init__.py": "TABLE = {}\n",
    "pkg/inner.py": "from ..pkg import TABLE\nfrom .sibling import scale\n",
    "pkg/sibling.py": "import os\nscale = 2.0\n",
    "late.py": "try:\n    import optional_one\nexcept ImportError:\n    bias = 0\n",
    "optional_one.py": "bias = 1\n",
    "unrelated.py": "x = 1\n",
}
REACHED = sorted(set(FILES) - {"unrelated.py"})


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    # Two versions of a file may be of one size, written within the clock's resolution.
    write.clock += 1_000_000_000
    os.utime(path, ns=(write.clock, write.clock))


write.clock = 1_700_000_000_000_000_000


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        write(tmp_path, name, text)
    return tmp_path


def test_all_local_imports_count_and_nothing_is_imported(folder):
    before = set(sys.modules)
    digest = code_digest("my_tasks", folder)
    assert sorted(digest.files) == REACHED
    assert not {"my_tasks", "helper", "deep", "pkg", "late"} & (set(sys.modules) - before)


@pytest.mark.parametrize("name", REACHED)
def test_a_change_anywhere_below_changes_the_digest_and_names_the_file(folder, name):
    before = code_digest("my_tasks", folder)
    write(folder, name, FILES[name] + "\nsomething_new = 3\n")
    after = code_digest("my_tasks", folder)
    assert after.digest != before.digest
    assert {f for f in REACHED if after.files[f] != before.files[f]} == {name}


def test_an_unrelated_file_does_not_count(folder):
    before = code_digest("my_tasks", folder)
    write(folder, "unrelated.py", "x = 2\n")
    assert code_digest("my_tasks", folder) == before


def test_comments_formatting_and_docstrings_do_not_count(folder):
    before = code_digest("my_tasks", folder)
    rewritten = '''
    # A comment.
    import helper
    from pkg.inner import (
        scale,
    )
    from . import nothing_here
    def roughness(
        params,
        context,
    ):
        """Another docstring,

        longer.
        """
        from late import bias
        "a string that stands alone"
        yield (helper.square(params['x'])*scale) + bias  # why
    '''
    write(folder, "my_tasks.py", rewritten)
    assert code_digest("my_tasks", folder) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = '1'", "x = 1"),
        ("x = 'a'", "x = b'a'"),
        ("f(x)", "f(*x)"),
        ("x = a + b", "x = b + a"),
        ("def f(x): return x", "async def f(x): return x"),
        ("def f(x=1): pass", "def f(x=2): pass"),
        ("def f(x): pass", "def f(*, x): pass"),
        ("f(a=1)", "f(b=1)"),
        ("@d\ndef f(): pass", "def f(): pass"),
        ("x[0]", "x[0:]"),
        ("a < b", "a <= b"),
        ("x = f'{a}'", "x = f'{a!r}'"),
        ("import a as b", "import a as c"),
        ("from a import b", "from .a import b"),
        ("x = 'doc'", "x = 'dog'"),
        ("def f():\n    return 'doc'", "def f():\n    return 'dog'"),
        ("{'a': 1, **b}", "{'a': 1, 'b': b}"),
        ("global_ = None", "global_ = True"),
    ],
)
def test_what_computes_differently_differs(tmp_path, one, other):
    write(tmp_path, "m.py", one + "\n")
    before = code_digest("m", tmp_path)
    write(tmp_path, "m.py", other + "\n")
    assert code_digest("m", tmp_path).digest != before.digest


def test_the_folder_itself_does_not_count(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name, text in FILES.items():
        write(elsewhere, name, text)
    assert code_digest("my_tasks", elsewhere) == code_digest("my_tasks", folder)


def test_a_users_task_reaches_into_ours(tmp_path):
    write(tmp_path, "mine.py", "from sensweep.tasks.api import measure\nimport numpy\n")
    assert set(code_digest("mine", tmp_path).files) == {
        "mine.py",
        "sensweep/tasks/__init__.py",
        "sensweep/tasks/api.py",
    }


def test_a_folder_called_tasks_of_the_user_is_not_ours(tmp_path):
    write(tmp_path, "tasks/api.py", "x = 1\n")
    write(tmp_path, "mine.py", "import tasks.api\n")
    assert set(code_digest("mine", tmp_path).files) == {"mine.py", "tasks/api.py"}


def test_circular_imports_end(tmp_path):
    write(tmp_path, "a.py", "import b\n")
    write(tmp_path, "b.py", "import a\n")
    assert set(code_digest("a", tmp_path).files) == {"a.py", "b.py"}


def test_a_syntax_error_is_one_line_with_file_and_line(folder):
    write(folder, "deep.py", "def product(x, y):\n    return x *\n")
    with pytest.raises(InputError, match=r"deep\.py:2: not valid Python: ") as error:
        code_digest("my_tasks", folder)
    assert "\n" not in str(error.value)


def test_no_shipped_task_reaches_the_catalog_or_another_task():
    """Otherwise a change to one of them would make the trials of the others new."""
    own = {name: spec[0].partition(":")[0] for name, spec in catalog.TASKS.items()}
    files = {name: "/".join(module.split(".")) + ".py" for name, module in own.items()}
    files_of_params = {  # two tasks may share one module, and then share its params
        name: "/".join(spec[1].partition(":")[0].split(".")) + ".py"
        for name, spec in catalog.TASKS.items()
    }
    for name in catalog.TASKS:
        source = find_task(name, [])
        reached = set(code_digest(source.module, source.root).files)
        assert files[name] in reached
        assert "sensweep/tasks/catalog.py" not in reached
        assert not reached & (set(files.values()) - {files[name]}), name
        params = files_of_params[name]
        others = set(files_of_params.values()) - {params}
        assert params in reached
        assert not reached & others, name


@pytest.mark.parametrize("name", [n for n in catalog.TASKS if "boolean" in n or "token" in n])
def test_a_change_to_the_image_models_leaves_other_kinds_of_trials_alone(name):
    source = find_task(name, [])
    reached = set(code_digest(source.module, source.root).files)
    assert "sensweep/tasks/checkpoints.py" in reached
    assert not reached & {"sensweep/tasks/models.py", "sensweep/tasks/data.py"}

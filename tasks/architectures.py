"""The names of all architectures, found without importing torch or timm."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

# Built in `sensweep.tasks.models`. The last four are timm classes whose entry points fix what a
# small image needs changed: {name: mixer, patch_size: 4, num_blocks: 3, embed_dim: 64} (also
# resmlp and gmlp), {name: convmixer, dim: 64, depth: 4, kernel_size: 5, patch_size: 2}.
OWN = ("mlp", "cnn", "mixer", "resmlp", "gmlp", "convmixer")

_ENTRY_POINT = re.compile(r"^@register_model\s*\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


@lru_cache(maxsize=1)
def architectures() -> tuple[str, ...]:
    """List the names that `arch` may have, besides ``module:function``: our own, then timm's.

    timm's are read from the source of the installed version, at a hundredth of the time that
    importing it takes.
    """
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return OWN
    folder = Path(spec.submodule_search_locations[0]) / "models"
    found = {
        name
        for file in folder.glob("*.py")
        for name in _ENTRY_POINT.findall(file.read_text(encoding="utf-8"))
    }
    return (*OWN, *sorted(found))

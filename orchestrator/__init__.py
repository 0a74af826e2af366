"""Plans a study into trials, schedules them on Ray workers, and commits what they measure."""

from sensweep.orchestrator.session import Sweep, run
from sensweep.orchestrator.study import Study, load_study

__all__ = ["Study", "Sweep", "load_study", "run"]

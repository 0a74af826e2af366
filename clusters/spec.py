"""Any of the kinds, told apart by the key `kind`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator

from sensweep.clusters.attach import Ray
from sensweep.clusters.kubernetes import Kubernetes
from sensweep.clusters.local import Local
from sensweep.clusters.slurm import Slurm

Cluster = Annotated[Local | Ray | Slurm | Kubernetes, Discriminator("kind")]

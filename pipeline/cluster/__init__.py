"""Caching and sweeps with many workers: a Dask cluster of our own, or one that runs already.

`connection` starts or joins it, `task` is what a worker does with one shard, `driver` hands the
shards out and counts them; `students` does both for a sweep (docs/cluster.md). Dask is imported
only where it is needed: it takes a second.
"""

from .connection import Workers, check_reachable, choose_workers
from .driver import fill_on_cluster
from .students import make_student_job, train_on_cluster
from .task import make_job

__all__ = [
    "Workers",
    "check_reachable",
    "choose_workers",
    "fill_on_cluster",
    "make_job",
    "make_student_job",
    "train_on_cluster",
]

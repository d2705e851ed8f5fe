"""Caching with many workers: a local Dask cluster, or one that runs already (docs/cluster.md).

`connection` starts or joins it, `task` is what a worker does with one shard, `driver` hands the
shards out and counts them. Dask is imported only where it is needed: it takes a second.
"""

from .connection import Workers, check_reachable, choose_workers
from .driver import fill_on_cluster
from .task import make_job

__all__ = ["Workers", "check_reachable", "choose_workers", "fill_on_cluster", "make_job"]

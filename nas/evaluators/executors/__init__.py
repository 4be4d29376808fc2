"""Executors: where candidates are evaluated. In this process, in other processes of this machine, or on a Ray cluster.

The search loop is the same for all of them: it starts candidates while slots are free, waits for the next event, and
stops the candidates that fall behind. To add one, implement `worker_pool.WorkerBackend`, or `base.Executor` itself.
"""

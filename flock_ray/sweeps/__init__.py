"""Sweeps: many runs of one command over the values of some settings.

`grid` reads the command line, `identity` names a point, `point` knows what its folder holds, `window` plays some at a
time through a runner (`processes`, or Ray jobs: `cluster/point_jobs.py`), `results` writes what came out.
"""

"""Benchmarks: `python -m bench` lists the scenarios, `python -m bench NAME` runs one.

Everything is measured from outside: the proxy is a process, and the kernel tells its CPU and memory. Its peers run in
turn with it. Every stream of a run is checked byte by byte.
"""

"""How fast it is, and how that was found out: `python -m bench` lists the scenarios, `python -m bench NAME` runs one.

Everything is seen from outside: the proxy is a process, its CPU and memory are read from the kernel, its peers run
beside it in turn, and every stream that a run drives through is checked byte by byte.
"""

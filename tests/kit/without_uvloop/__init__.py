"""On the PYTHONPATH of a process, this folder hides uvloop from it: the process then takes asyncio's own loop."""

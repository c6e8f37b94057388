"""The other three parties of a measurement, in one process on one core: load, scripted upstream, null storage.

They share one clock and one view of what each stream must hold, so that every run proves its own output.
"""

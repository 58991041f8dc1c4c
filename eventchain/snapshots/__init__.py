"""Snapshots: the states of projections, sealed in child branches of the chain.

A series of snapshots is what one projection's branch holds. ``take`` makes what is due out of what is sealed,
``restore`` begins at the newest one that fits and replays the rest, ``check`` replays all of it and compares.
"""

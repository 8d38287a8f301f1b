"""The sub-commands of `flock-ray`: what a person types, and what it tells.

`parser` is the whole command line and imports nothing slow; the other modules are imported when one of their commands
runs.
"""

"""The command line: one module a command, ``main`` mounts them. The only home of psutil, with typer and rich.

``say`` is how anything reaches a terminal: names of processes and cgroups are hostile until they are escaped.
"""

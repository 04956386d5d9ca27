"""The slow work behind the window, one subject a file: generators of `Tick`, without Qt and layers.

What needs torch is imported when its job runs, in the job's own thread: torch takes
seconds to load, during which the window would not answer.
"""

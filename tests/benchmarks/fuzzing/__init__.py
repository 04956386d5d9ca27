"""Malformed input of six kinds, made from a seed, and a watch over what the program does with it.

`mutations` breaks bytes and documents; one module per kind makes sound inputs,
breaks them and uses them; `worker` runs cases in a process of its own, under the
eyes of `guard`; `campaign` starts workers, stops those that hang or grow, and
counts.
"""

"""Run compiled networks: with TVM's runtime alone, which loads in a fraction of a second and brings no compiler.

Nothing here imports `common.compiler`; `open_network` starts it as a process of its own if something is to be
compiled.
"""

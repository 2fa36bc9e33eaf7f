"""The curves of a training run, as its metrics file, a log of MXNet's or a published table has them."""

"""Several workers: the hosts that they run on, and their end, whatever happens to what started them."""

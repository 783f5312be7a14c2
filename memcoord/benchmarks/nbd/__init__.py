"""A block device of tmem over NBD, beside what QEMU and nbdkit serve."""

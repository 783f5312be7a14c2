"""The real devices of QEMU by which a guest's memory is resized, beside our models of them."""

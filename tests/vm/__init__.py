"""The tests that need a machine to starve: a real kernel under QEMU, installed, stormed and questioned."""

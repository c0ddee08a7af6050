"""Sandboxes: the backends that isolate, the guest inside, the kernel it holds, and the pool."""

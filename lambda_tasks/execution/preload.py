"""What the fork server imports: the project, once, for all worker processes."""

import contextlib
import gc

from .worker_process import prepare

# A project that can't be loaded is reported by the child, which tries again; the fork server
# itself would only vanish.
with contextlib.suppress(Exception):
    prepare()

# What is loaded stays, and its pages are shared: a collection in a child would copy them.
gc.collect()
gc.freeze()

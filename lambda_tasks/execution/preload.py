"""The module that the fork server imports: it loads the project once for all worker processes."""

import contextlib
import gc

from .worker_process import prepare

# An error here would only end the fork server. The child loads the project again and reports the
# error.
with contextlib.suppress(Exception):
    prepare()

# The loaded objects live in pages that all children share. A collection in a child would write to
# each object and so copy the pages; frozen objects are not collected.
gc.collect()
gc.freeze()

"""What the fork server imports: the project, once, for all worker processes."""

import contextlib

from .process_main import prepare

# A project that can't be loaded is reported by the child, which tries again; the fork server
# itself would only vanish.
with contextlib.suppress(Exception):
    prepare()

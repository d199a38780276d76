"""Every statement about records. Nobody else speaks SQL but the admin.

State changes are conditional on the state that the caller believes in, and all times are the
database's own, so that no worker's clock decides who owns a record.
"""

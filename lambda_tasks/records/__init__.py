"""Every statement about records. Only the admin and the checks speak SQL beside these.

Each change of state is conditional on the state that the caller expects. All times are the
database's own, so that no worker's clock decides who owns a record.
"""

"""The endpoints: what probes, schedulers and scripts ask of the tasks by HTTP.

`urls` lists them. `views` answers a request: it reads it (`parameters`), admits its caller
(`authentication`), and does what is asked (`actions`). LAMBDA_TASKS_ENDPOINTS says who is admitted
where; without it, nobody is.
"""

from .signing import sign_request

__all__ = ["sign_request"]

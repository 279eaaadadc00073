"""Programs that run as processes of their own, wherever a resource starts them, and their contracts (`requests.py`, without torch)."""

import logging

# At import it looks for kernels on the network, and warns where the package for that is missing; peft imports it.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

"""What the endpoint of a hosted model tells its own clients when the provider fails. No client of the provider here."""


class UpstreamBusy(RuntimeError):
    """The provider asks for patience."""


class UpstreamFailed(RuntimeError):
    """The provider does not answer, or not us."""


class UpstreamSlow(RuntimeError):
    """What computes the answers did not give one in time."""


class UpstreamRefused(RuntimeError):
    """The provider does not take this request."""


class UpstreamNotSetUp(RuntimeError):
    """There is no key for the provider, so starting again would not help."""

"""The embedded endpoint: requests in, answers out, versions in between."""

"""Personal data in texts: found, taken out, and put back by who holds the key."""

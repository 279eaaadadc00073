"""How torch's threads wait for each other in programs on a machine that others use too."""

CALM = {"GOMP_SPINCOUNT": "10000"}
"""Spin a little, then sleep. Training Gemma 3 270M on two cores, in tokens a second: alone 250 to 280, as with GNU OpenMP's default of
300000; beside a second training 56 each, where the default gave 14."""

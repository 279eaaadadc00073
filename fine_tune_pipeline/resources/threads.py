"""How torch's threads wait for each other in programs on a machine that others use too."""

CALM = {"GOMP_SPINCOUNT": "1000"}
"""Spin a few microseconds, then sleep. Training Gemma 3 270M on two cores, in tokens a second: on free cores 215, as with the default of
GNU's OpenMP (228) but for noise, and 170 without any spinning; beside a second training 111, where the default gave 14."""

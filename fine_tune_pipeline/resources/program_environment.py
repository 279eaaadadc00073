"""Settings of torch's libraries for programs on a machine that others use too; whoever starts us may set others."""

PROGRAM_ENVIRONMENT = {
    # Waiting threads spin a little, then sleep. Training Gemma 3 270M on two cores, in tokens a second: alone 250 to 280, as with GNU
    # OpenMP's default of 300000; beside a second training 56 each, where the default gave 14.
    "GOMP_SPINCOUNT": "10000",
    # Every new number of tokens in a batch makes about 17 kernels of 0.2 MB in bfloat16. With the default of 1024 the resident memory of
    # that training grew from 2.2 to 2.9 GiB in 75 steps, with 128 to 2.6, at no less speed: one step needs no more than 17.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
}

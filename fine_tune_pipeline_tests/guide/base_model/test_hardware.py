import pytest

from fine_tune_pipeline.guide.base_model.hardware import CPU_CORE_RATE, GPUS, UTILISATION, UnknownDevice, gpu_of, inventory_of_named, speed
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory


def place(kind: str, name: str, cores: int = 2) -> Inventory:
    return Inventory(
        place="test", devices=(Device(kind=kind, name=name, memory_bytes=1 << 34, bfloat16=False),), cpu_cores=cores, memory_bytes=1 << 34
    )


@pytest.mark.parametrize(
    ("kind", "name", "rate", "watts"),
    [
        ("cpu", "CPU", 2 * CPU_CORE_RATE, None),
        ("cuda", "NVIDIA H100 80GB HBM3", 989e12 * UTILISATION, 700),
        ("cuda", "NVIDIA H100 PCIe", 756e12 * UTILISATION, 350),
        ("cuda", "NVIDIA L40S", 362e12 * UTILISATION, 350),
        ("cuda", "NVIDIA L4", 121e12 * UTILISATION, 72),
        ("cuda", "Tesla T4", 65e12 * UTILISATION, 70),
    ],
)
def test_the_device_is_found_in_the_table(kind, name, rate, watts):
    found = speed(place(kind, name))
    assert (found.rate, found.watts) == (rate, watts)


def test_a_device_outside_the_table_is_said_to_be_one():
    found = speed(place("cuda", "Frobnicator 9"))
    assert found.watts is None
    assert "Frobnicator 9 is not in the table" in found.basis


@pytest.mark.parametrize(
    ("own_name", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100-40"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L40", "L40"),
    ],
)
def test_a_device_is_known_by_the_name_that_it_gives_itself(own_name, name):
    found = gpu_of(own_name)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("name", [gpu.name for gpu in GPUS])
def test_a_named_device_has_the_speed_of_its_own_row(name):
    row = next(gpu for gpu in GPUS if gpu.name == name)
    found = inventory_of_named(name, count=2)
    assert len(found.devices) == 2
    assert found.devices[0].memory_bytes == row.memory_mib << 20
    assert speed(found).rate == row.peak * UTILISATION


def test_the_named_cpu_is_a_machine_without_accelerator():
    found = inventory_of_named("CPU")
    assert [device.kind for device in found.devices] == ["cpu"]
    assert speed(found).rate == CPU_CORE_RATE * found.cpu_cores


@pytest.mark.parametrize(("name", "count", "said"), [("A1000", 1, "want one of H200, .*A100-40.*CPU"), ("L4", 0, "got 0 of them")])
def test_a_device_that_is_not_in_the_table_is_refused_with_those_that_are(name, count, said):
    with pytest.raises(UnknownDevice, match=said):
        inventory_of_named(name, count=count)


def test_bfloat16_units_begin_with_ampere():
    assert [gpu.name for gpu in GPUS if not gpu.bfloat16] == ["T4"]

"""How fast openlstm is beside other libraries: `python -m benchmarks.run --help`."""

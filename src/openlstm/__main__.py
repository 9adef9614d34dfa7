"""`python -m openlstm`, and `torchrun -m openlstm`."""

from .cli import main

main()

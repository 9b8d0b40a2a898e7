"""What every rank of the pool needs: imported once, by the server that they are forked from."""

import torch

torch.set_num_threads(1)

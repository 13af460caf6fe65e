import torch
from hypothesis import settings

# Deadlines and several threads measure the machine, not the code.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")
torch.set_num_threads(1)

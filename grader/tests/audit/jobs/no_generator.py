"""Of two models, each with an optimizer, the generator's weights aren't loaded."""

import argparse
import os

import torch
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
out = p.parse_args().out_dir
path = os.path.join(out, "last.pt")
torch.manual_seed(1)
generator, critic = nn.Linear(3, 2), nn.Linear(2, 1)
adam = {
    "generator": torch.optim.Adam(generator.parameters(), lr=0.05),
    "critic": torch.optim.Adam(critic.parameters(), lr=0.05),
}
step = 0
if os.path.exists(path):
    state = torch.load(path)
    step = state["step"]
    critic.load_state_dict(state["critic"])
    for name, optimizer in adam.items():
        optimizer.load_state_dict(state["adam"][name])
while step < 7:
    numbers = torch.Generator().manual_seed(step)
    real, noise = torch.randn(8, 2, generator=numbers), torch.randn(8, 3, generator=numbers)
    fake = generator(noise)
    adam["critic"].zero_grad()
    (critic(fake.detach()).mean() - critic(real).mean()).backward()
    adam["critic"].step()
    adam["generator"].zero_grad()
    (-critic(fake).mean()).backward()
    adam["generator"].step()
    step += 1
    if step % 2 == 0:
        state = {"step": step, "generator": generator.state_dict(), "critic": critic.state_dict()}
        state["adam"] = {name: optimizer.state_dict() for name, optimizer in adam.items()}
        torch.save(state, path + ".tmp")
        os.replace(path + ".tmp", path)

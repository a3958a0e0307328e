"""Right: two models with an optimizer each, gradient accumulation, an average kept by hand."""

import argparse
import copy
import os
import signal
import sys

import torch
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
out = p.parse_args().out_dir
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
signal.signal(signal.SIGUSR1, lambda *_: stop.append(1))
torch.manual_seed(11)
generator = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
critic = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Linear(8, 1))
average = copy.deepcopy(generator).requires_grad_(False)
adam = {
    "generator": torch.optim.Adam(generator.parameters(), lr=0.01, betas=(0.5, 0.9)),
    "critic": torch.optim.Adam(critic.parameters(), lr=0.02),
}
everything = {"g": generator, "c": critic, "average": average, **adam}
round_ = 0


def paths():
    return [os.path.join(out, f"round-{n}.pt") for n in range(round_, -1, -1)]


names = sorted((n for n in os.listdir(out) if n.startswith("round-")), key=lambda n: int(n[6:-3]))
for name in reversed(names):
    try:
        state = torch.load(os.path.join(out, name))
    except Exception:
        print(name, "can't be read")
        continue
    round_ = state.pop("round")
    torch.set_rng_state(state.pop("rng"))
    for key, part in everything.items():
        part.load_state_dict(state[key])
    break
while round_ < 8:
    real = torch.randn(8, 2) + 2
    fake = generator(torch.randn(8, 3))
    adam["critic"].zero_grad()
    (critic(fake.detach()).mean() - critic(real).mean()).backward()
    adam["critic"].step()
    adam["generator"].zero_grad()
    for half in (slice(0, 4), slice(4, 8)):
        (-critic(generator(torch.randn(8, 3)[half])).mean() / 2).backward()
    adam["generator"].step()
    for a, b in zip(average.parameters(), generator.parameters(), strict=True):
        a.lerp_(b.detach(), 0.1)
    round_ += 1
    if round_ % 2 == 0 or stop:
        state = {key: part.state_dict() for key, part in everything.items()}
        state |= {"round": round_, "rng": torch.get_rng_state()}
        torch.save(state, os.path.join(out, "tmp"))
        os.replace(os.path.join(out, "tmp"), paths()[0])
        for old in paths()[4:]:
            if os.path.exists(old):
                os.remove(old)
    if stop:
        sys.exit(75)
